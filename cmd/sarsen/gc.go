package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sarsen-build/sarsen/config"
	"github.com/sarsen-build/sarsen/s3"
)

// bucketFlags are the settings that say where the bucket is.
var bucketFlags = []string{"bucket", "bucket-endpoint", "bucket-prefix", "bucket-region", "bucket-path-style", "bucket-profile", "bucket-credentials"}

// A gcLine is a line of what a collection says, also over HTTP. One field is set.
type gcLine struct {
	Progress *s3.Report `json:"progress,omitempty"`
	Report   *s3.Report `json:"report,omitempty"` // the last line
	Error    string     `json:"error,omitempty"`  // the last line of one that did not come to its end
}

func (l gcLine) end() (whole bool, trouble string) { return l.Report != nil, l.Error }

// A gcHow is what is collected. Its zero value is the garbage.
type gcHow struct {
	all, dryRun     bool
	grace, patience time.Duration
	maxSize         int64
}

func newGCCommand() *cobra.Command {
	var how gcHow
	var server string
	var asJSON bool
	grace, patience, maxSize := "0s", "10m", "none"
	cmd := &cobra.Command{
		Use:   "gc [--server http://HOST:PORT | --bucket NAME | --config FILE]",
		Short: "Collect a bucket's garbage",
		Long: `Remove from a bucket what nobody can want: second copies and superseded results. With --max-size, also the
oldest blobs and results until no more is left than that; with --all, all of them. What a backup holds stays, and so
does what any server that uses the bucket has promised, is reading or is writing: each of them is asked.
A server that was stopped or killed less than a lease ago still stands by its promises, and has to be waited for.

With --server, the running server at that HTTP address collects. Without it, this process does, beside the servers
that there may be. 'sarsen serve' and 'sarsen up' collect by themselves: see --bucket-collect and --bucket-max-size.`,
		Example: "  sarsen gc --server http://127.0.0.1:8981 --dry-run\n  sarsen gc --config sarsen.yaml --max-size 500GB",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if err := how.parse(grace, patience, maxSize); err != nil {
				return &usageError{err}
			}
			ctx, cancel := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer cancel()
			p := &gcPrinter{out: cmd.OutOrStdout(), err: cmd.ErrOrStderr(), json: asJSON, dryRun: how.dryRun}
			if server != "" {
				err = askServer(ctx, server, "gc", how.query(), p.line)
			} else {
				err = gcAlone(ctx, cmd, how, p.line)
			}
			p.clear()
			if ctx.Err() != nil {
				err = errors.New("gc was stopped before its end")
			}
			return errors.Join(err, p.failed)
		},
	}
	f := cmd.Flags()
	f.StringVar(&server, "server", "", "the HTTP address of a running server, http://HOST:PORT")
	f.BoolVar(&how.dryRun, "dry-run", false, "only say what would go, if nobody holds it")
	f.StringVar(&maxSize, "max-size", maxSize, "how much to leave, like 500GB; the oldest goes first")
	f.BoolVar(&how.all, "all", false, "everything that no backup holds and nobody uses goes")
	f.StringVar(&grace, "grace", grace, "but not what is younger than this, like 2d")
	f.StringVar(&patience, "patience", patience, "how long to wait for servers, those that ended too")
	f.BoolVar(&asJSON, "json", false, "print a JSON object a line: each has progress or report")
	addConfigFile(cmd)
	addSettings(cmd, bucketFlags...)
	cmd.MarkFlagsMutuallyExclusive("all", "max-size")
	for _, flag := range append([]string{"config"}, bucketFlags...) {
		cmd.MarkFlagsMutuallyExclusive("server", flag)
	}
	return cmd
}

// parse reads what the command line says.
func (how *gcHow) parse(grace, patience, maxSize string) (err error) {
	if how.grace, err = config.ParseDuration(grace); err != nil {
		return fmt.Errorf("--grace: %w", err)
	}
	if how.patience, err = config.ParseDuration(patience); err != nil {
		return fmt.Errorf("--patience: %w", err)
	}
	if how.grace < 0 || how.patience < 0 {
		return errors.New("--grace and --patience are not negative")
	}
	if maxSize == "none" {
		return nil
	}
	if how.maxSize, err = config.ParseSize(maxSize); err != nil {
		return fmt.Errorf("--max-size: %w", err)
	}
	if how.maxSize == 0 {
		return errors.New("--max-size 0 would be no limit; write none for that, or --all to leave nothing")
	}
	return nil
}

// policy returns the collection's policy, which tells say how far it is, now and then.
func (how gcHow) policy(say func(gcLine)) s3.Policy {
	var mu sync.Mutex
	var last time.Time
	return s3.Policy{
		MaxSize: how.maxSize, All: how.all, Grace: how.grace, DryRun: how.dryRun,
		Patience: max(how.patience, 1), // 0 would be the default
		Progress: func(r s3.Report) {
			mu.Lock()
			defer mu.Unlock()
			if time.Since(last) > time.Second/2 {
				last = time.Now()
				say(gcLine{Progress: &r})
			}
		},
	}
}

// gc collects until there is no more to do, and says what it did, also where damaged roots let blobs stay.
func gc(ctx context.Context, how gcHow, say func(gcLine), collect func(context.Context, s3.Policy) (s3.Report, error)) error {
	var sum s3.Report
	for {
		r, err := collect(ctx, how.policy(say))
		r.Deleted += sum.Deleted
		r.DeletedRoots += sum.DeletedRoots
		var damaged *s3.DamagedError
		if err != nil && !errors.As(err, &damaged) {
			return err
		}
		// Where all was refused, the next round would be too.
		if done := r.Candidates - int64(r.Refused); !r.More || how.dryRun || done <= 0 {
			say(gcLine{Report: &r})
			return err
		}
		sum = r
	}
}

// gcAlone collects in this process.
func gcAlone(ctx context.Context, cmd *cobra.Command, how gcHow, say func(gcLine)) error {
	c, err := loadSettings(cmd, cmd.Flag("config").Value.String())
	if err != nil {
		return err
	}
	if c.Bucket.Name == "" {
		return &usageError{errors.New("which bucket? Name it with --bucket or --config, or a running server with --server")}
	}
	b, err := openBucket(ctx, c.Bucket)
	if err != nil {
		return err
	}
	o := sessionOptions(c, slog.New(slog.DiscardHandler))
	return gc(ctx, how, say, func(ctx context.Context, policy s3.Policy) (s3.Report, error) {
		r, err := s3.CollectAlone(ctx, b, o, policy)
		return r, explainCollect(c.Bucket, err)
	})
}

func explainCollect(c config.Bucket, err error) error {
	var blocked *s3.BlockedError
	var damaged *s3.DamagedError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &damaged):
		return damaged
	case errors.As(err, &blocked):
		return fmt.Errorf("nothing was collected: %w; try again then", blocked)
	case errors.Is(err, s3.ErrBusy):
		return fmt.Errorf("nothing was collected: %w; try again later, or with more --patience", err)
	case errors.Is(err, context.Canceled):
		return err
	}
	return explainBucket(c, err)
}

// query is how over HTTP.
func (how gcHow) query() url.Values {
	return url.Values{
		"all": {strconv.FormatBool(how.all)}, "dry-run": {strconv.FormatBool(how.dryRun)}, "grace": {how.grace.String()},
		"patience": {how.patience.String()}, "max-size": {strconv.FormatInt(how.maxSize, 10)},
	}
}

// gcHowOf reads a query. What is not there is left as it is.
func gcHowOf(q url.Values) (how gcHow, err error) {
	how.patience = 10 * time.Minute
	read := func(name string, parse func(string) error) {
		if text := q.Get(name); text != "" && err == nil {
			if err = parse(text); err != nil {
				err = fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	read("all", func(t string) (err error) { how.all, err = strconv.ParseBool(t); return err })
	read("dry-run", func(t string) (err error) { how.dryRun, err = strconv.ParseBool(t); return err })
	read("grace", func(t string) (err error) { how.grace, err = config.ParseDuration(t); return err })
	read("patience", func(t string) (err error) { how.patience, err = config.ParseDuration(t); return err })
	read("max-size", func(t string) (err error) { how.maxSize, err = config.ParseSize(t); return err })
	return how, err
}

// collect returns what POST /gc does, nil if there is no bucket. It ends when the client goes or the server stops.
func (s *services) collect(stopping context.Context) func(context.Context, url.Values, func(any)) error {
	if s.behind == nil {
		return nil
	}
	return func(ctx context.Context, q url.Values, say func(any)) error {
		how, err := gcHowOf(q)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(stopping, func() { cancel(errStopping) })()
		err = gc(ctx, how, func(l gcLine) { say(l) }, s.behind.collect)
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return err
	}
}

// A gcPrinter prints lines as they come.
type gcPrinter struct {
	out, err io.Writer
	json     bool
	dryRun   bool
	showing  bool  // a progress line, which has no end yet
	failed   error // of out
}

func (p *gcPrinter) line(l gcLine) {
	if p.json {
		data, err := json.Marshal(l)
		p.failed = errors.Join(p.failed, err)
		p.print(string(data) + "\n")
		return
	}
	if r := l.Progress; r != nil {
		if f, ok := p.err.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			fmt.Fprintf(p.err, "\r%s objects, %s", humanize.Comma(r.Objects), humanize.IBytes(uint64(r.Bytes)))
			p.showing = true
		}
		return
	}
	r := l.Report
	p.clear()
	text := fmt.Sprintf("%s with %s looked at; %s kept by %s; ", count(r.Objects, "object", "objects"), humanize.IBytes(uint64(r.Bytes)),
		humanize.Comma(r.Kept), count(int64(r.Roots), "root", "roots"))
	if p.dryRun {
		text += fmt.Sprintf("%s with %s would go if nobody holds them", humanize.Comma(r.Candidates), humanize.IBytes(uint64(r.CandidateBytes)))
	} else {
		text += fmt.Sprintf("%s deleted, %s in use", humanize.Comma(int64(r.Deleted)), humanize.Comma(int64(r.Refused)))
	}
	p.print(text + "\n")
}

func (p *gcPrinter) print(text string) {
	if p.failed == nil {
		_, p.failed = io.WriteString(p.out, text)
	}
}

func (p *gcPrinter) clear() {
	if p.showing {
		fmt.Fprint(p.err, "\r\x1b[K")
		p.showing = false
	}
}
