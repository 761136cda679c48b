package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sarsen-build/sarsen/config"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/segment"
)

func newFsckCommand() *cobra.Command {
	var server string
	var asJSON, repair, quick bool
	cmd := &cobra.Command{
		Use:   "fsck [--dir DIR | --server http://HOST:PORT | --bucket NAME]",
		Short: "Verify every stored byte",
		Long: `Read and verify everything that a store holds. Each blob and action result that is damaged is printed,
with its segment and offset, and each action result, and each file of a backup, that names a damaged blob.

Without --server, the store in --dir is read, which no server may have open. Nothing is changed, unless
--repair is given: then what is damaged is quarantined. A server calls it missing from then on, so that
clients upload it again. --repair needs the --lease of the server, or the --config that has it.

With --server, the running server at that HTTP address verifies itself and quarantines what is damaged,
while it goes on serving. Ctrl-C ends it.

With --bucket, the bucket of that name is verified, beside the servers that use it: each object, and that all is there
that backups hold. Nothing is changed. --config may say where the bucket is. With --quick no object is read.

The status is 0 if nothing is damaged and 1 if something is.`,
		Example: "  sarsen fsck --dir /var/cache/sarsen\n  sarsen fsck --server http://127.0.0.1:8981",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer cancel()
			if cmd.Flags().Changed("bucket") {
				return fsckBucket(ctx, cmd, quick, asJSON)
			}
			if quick {
				return &usageError{errors.New("--quick is for a bucket; name it with --bucket")}
			}
			p := &fsckPrinter{out: cmd.OutOrStdout(), err: cmd.ErrOrStderr(), json: asJSON}
			err := fsck(ctx, cmd, server, repair, p.line)
			if ctx.Err() != nil {
				err = errors.New("fsck was stopped before its end")
			}
			return errors.Join(err, p.end(err == nil))
		},
	}
	cmd.Flags().StringVar(&server, "server", "", "the HTTP address of a running server, http://HOST:PORT")
	cmd.Flags().BoolVar(&repair, "repair", false, "quarantine what is damaged (a server always does)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object a line: each has one of progress, damage, result, summary; of a bucket one object of all that was found")
	cmd.Flags().BoolVar(&quick, "quick", false, "of a bucket, look at the listing and the roots only")
	addConfigFile(cmd)
	addSettings(cmd, append([]string{"dir", "lease"}, bucketFlags...)...)
	for _, flag := range append([]string{"dir", "config", "lease", "repair"}, bucketFlags...) {
		cmd.MarkFlagsMutuallyExclusive("server", flag)
	}
	for _, flag := range []string{"dir", "lease", "repair"} {
		cmd.MarkFlagsMutuallyExclusive("bucket", flag)
	}
	return cmd
}

// fsck verifies the store that the command line means, and calls say for what there is to say.
func fsck(ctx context.Context, cmd *cobra.Command, server string, repair bool, say func(fsckLine)) error {
	if server != "" {
		return askServer(ctx, server, "fsck", nil, say)
	}
	c, err := loadSettings(cmd, cmd.Flag("config").Value.String())
	if err != nil {
		return err
	}
	files, err := vfs.OS{}.List(c.Dir)
	if err != nil || !slices.ContainsFunc(files, func(f vfs.Info) bool { return filepath.Ext(f.Name) == ".seg" }) {
		return fmt.Errorf("there is no store in %s; say where it is with --dir", c.Dir)
	}
	if repair {
		return fsckRepair(ctx, c, say)
	}
	audit := newAudit(say)
	audit.survey, err = segment.Inspect(ctx, vfs.OS{}, c.Dir, audit.damaged, func(v *segment.View) error { return audit.trace(ctx, v) })
	if err != nil {
		return explainFsck(c.Dir, err)
	}
	audit.end(false)
	return nil
}

// fsckRepair opens the store as a server would that has room for everything that is there, and lets it
// quarantine.
func fsckRepair(ctx context.Context, c *config.Config, say func(fsckLine)) error {
	room, err := roomFor(c.Dir)
	if err != nil {
		return err
	}
	ring, err := segment.Open(ctx, vfs.OS{}, c.Dir, segment.Options{MaxSize: room, Lease: c.Lease})
	if err != nil {
		return explainFsck(c.Dir, err)
	}
	err = scrub(ctx, ring, nil, say)
	if closing := ring.Close(); closing != nil {
		err = errors.Join(err, fmt.Errorf("the store in %s was not closed cleanly: %w", c.Dir, closing))
	}
	return err
}

// roomFor returns a limit under which a ring evicts nothing of what is in dir, whatever the limit of its
// server is. The cleaner wants less than four segments free, of a 64th of the limit each, of the limit and
// of the disk.
func roomFor(dir string) (int64, error) {
	infos, err := vfs.OS{}.List(dir)
	if err != nil {
		return 0, err
	}
	var used int64
	for _, info := range infos {
		used += info.Size
	}
	room := used + used/4 + segment.MinSize
	free, err := vfs.OS{}.Free(dir)
	if err != nil {
		return 0, err
	}
	if need := min(max(room/16, 16<<20), 4<<30); free < need {
		return 0, fmt.Errorf("the disk of %s has %s free, and --repair needs %s, or it would have to evict; free some space", dir, humanize.IBytes(uint64(free)), humanize.IBytes(uint64(need)))
	}
	return room, nil
}

func explainFsck(dir string, err error) error {
	if errors.Is(err, segment.ErrLocked) {
		return fmt.Errorf("%s is in use by a running Sarsen; let that one check itself with 'sarsen fsck --server http://HOST:PORT', or stop it first", dir)
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("the store in %s can't be checked: %w", dir, err)
}

// A fsckPrinter prints lines as they come, and keeps the summary.
type fsckPrinter struct {
	out, err io.Writer
	json     bool
	showing  bool // a progress line, which has no end yet
	summary  *fsckSummary
	failed   error // of out
}

func (p *fsckPrinter) line(l fsckLine) {
	if l.Summary != nil {
		p.summary = l.Summary
	}
	var text string
	if p.json {
		data, err := json.Marshal(l)
		p.failed = errors.Join(p.failed, err)
		text = string(data) + "\n"
	} else if text = l.text(); text == "" {
		p.progress(l.Progress)
		return
	}
	p.clear()
	if p.failed == nil {
		_, p.failed = io.WriteString(p.out, text)
	}
}

// progress shows how far it is, to people.
func (p *fsckPrinter) progress(at *fsckProgress) {
	if f, ok := p.err.(*os.File); at != nil && ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprintf(p.err, "\rsegment %d of %d", at.Segment, at.Segments)
		p.showing = true
	}
}

func (p *fsckPrinter) clear() {
	if p.showing {
		fmt.Fprint(p.err, "\r\x1b[K")
		p.showing = false
	}
}

// end returns what the command ends with: an error if there is damage.
func (p *fsckPrinter) end(whole bool) error {
	p.clear()
	if p.failed != nil || !whole || p.summary.Damaged == 0 {
		return p.failed
	}
	what := fmt.Sprintf("%s damaged", humanize.Comma(p.summary.Damaged))
	if !p.summary.Quarantined {
		return fmt.Errorf("%s; 'sarsen fsck --repair' quarantines what is, and so does a server that reads it", what)
	}
	return fmt.Errorf("%s and quarantined; clients that still need it upload it again", what)
}

// text returns the line for people; progress has none.
func (l fsckLine) text() string {
	switch {
	case l.Damage != nil:
		return l.Damage.text() + "\n"
	case l.Result != nil:
		text := fmt.Sprintf("affected result: action %s, instance %q", l.Result.Action, l.Result.Instance)
		switch {
		case l.Result.Itself:
			text += ", is damaged itself"
		case len(l.Result.Blobs) > 0:
			text += ", names " + strings.Join(l.Result.Blobs, ", ")
		default:
			text += ", names trees that can't be read"
		}
		return text + "\n"
	case l.Root != nil && l.Root.Itself:
		return fmt.Sprintf("affected root: %s, is damaged itself\n", l.Root.Name)
	case l.Root != nil:
		return fmt.Sprintf("affected root: %s, holds %s\n", l.Root.Name, strings.Join(l.Root.Blobs, ", "))
	case l.Summary != nil:
		s := l.Summary
		text := fmt.Sprintf("%s: %s with %s verified; %d damaged; affected: %s",
			count(s.Segments, "segment", "segments"), count(s.Records, "record", "records"), humanize.IBytes(uint64(s.Bytes)),
			s.Damaged, count(s.Results, "action result", "action results"))
		if s.Roots > 0 {
			text += ", " + count(s.Roots, "root", "roots") + " of backups"
		}
		return text + "\n"
	}
	return ""
}

func (d *fsckDamage) text() string {
	what := "damaged segment"
	switch {
	case d.Blob != "":
		what = "damaged blob " + d.Blob
	case d.Record != "":
		what = "damaged record " + d.Record
	}
	return fmt.Sprintf("%s: segment %s, offset %d, %d bytes: %s", what, d.Segment, d.Offset, d.Size, d.Error)
}
