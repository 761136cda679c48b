package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sarsen-build/sarsen/client"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/snapshotpb"
	"github.com/sarsen-build/sarsen/snapshot"
	"github.com/sarsen-build/sarsen/upstream"
)

// A snapshotCommand is what all of them have.
type snapshotCommand struct {
	remote
	json bool
}

func newSnapshotCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Keep directories on a server, and get them back",
		Long: `Keep directories, such as a CI workspace or what a release consists of, on a server. A snapshot is a tree of the
Remote Execution API and a name: the server holds all of it against eviction until the snapshot is forgotten, and
every client of the API can read it by its digest. Large files are sent in chunks that the server does not have yet.

This is no encrypted backup: who reaches the server can read it. Owners, extended attributes and hard links are not
kept. For backups use restic, which the HTTP port serves.`,
		Example: `  sarsen snapshot create work ./out --tag nightly
  sarsen snapshot list
  sarsen snapshot restore work ./there
  sarsen snapshot forget work --keep-last 3 --keep-daily 7`,
		Args: subcommandOnly,
		RunE: printHelp,
	}
	cmd.AddCommand(newSnapshotCreateCommand(), newSnapshotListCommand(), newSnapshotRestoreCommand(), newSnapshotVerifyCommand(), newSnapshotForgetCommand())
	return cmd
}

func (s *snapshotCommand) flags(cmd *cobra.Command) {
	s.remote.flags(cmd)
	cmd.Flags().BoolVar(&s.json, "json", false, "print JSON")
}

// A shownSnapshot is a snapshot in JSON.
type shownSnapshot struct {
	Name        string    `json:"name"`
	ID          string    `json:"id"`
	Root        string    `json:"root"`
	Time        time.Time `json:"time"`
	Host        string    `json:"host"`
	Path        string    `json:"path"`
	Tags        []string  `json:"tags"`
	Files       int64     `json:"files"`
	Directories int64     `json:"directories"`
	Symlinks    int64     `json:"symlinks"`
	Bytes       int64     `json:"bytes"`
	Sent        int64     `json:"sent_bytes"`
	KeptBlobs   int64     `json:"kept_blobs"`
	KeptBytes   int64     `json:"kept_bytes"`
}

func shown(s *snapshotpb.Snapshot) shownSnapshot {
	root, _ := rootOf(s) // the server has checked it
	return shownSnapshot{
		s.Name, s.Id, root.String(), s.Time.AsTime(), s.Host, s.Path, append([]string{}, s.Tags...),
		s.Files, s.Directories, s.Symlinks, s.Bytes, s.SentBytes, s.KeptBlobs, s.KeptBytes,
	}
}

func rootOf(s *snapshotpb.Snapshot) (digest.Digest, error) {
	return upstream.FromProto(digest.Function(s.DigestFunction), s.Root)
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// find returns the snapshot that text names: NAME is the newest of that name, ID or the beginning of one is that one.
func find(ctx context.Context, c *client.Client, text string) (*snapshotpb.Snapshot, error) {
	all, err := c.Snapshots(ctx, "")
	if err != nil {
		return nil, err
	}
	var newest *snapshotpb.Snapshot
	var begin []*snapshotpb.Snapshot
	for _, s := range all {
		if s.Name == text && (newest == nil || !s.Time.AsTime().Before(newest.Time.AsTime())) {
			newest = s
		}
		if s.Id == text {
			return s, nil
		}
		if strings.HasPrefix(s.Id, text) {
			begin = append(begin, s)
		}
	}
	switch {
	case newest != nil:
		return newest, nil
	case len(begin) == 1:
		return begin[0], nil
	case len(begin) > 1:
		return nil, fmt.Errorf("%s: %d snapshots begin with %q; give more of the ID", c.Target(), len(begin), text)
	}
	return nil, fmt.Errorf("%s has no snapshot %q; see 'sarsen snapshot list'", c.Target(), text)
}

// watch shows how far a call is, if a person looks, until the function that it returns is called.
func watch(w io.Writer, verb string, counts *snapshot.Counts) (done func()) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return func() {}
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				fmt.Fprint(f, "\r\x1b[K")
				return
			case <-time.After(200 * time.Millisecond):
				fmt.Fprintf(f, "\r\x1b[K%s %s, %s, %s over the wire", verb, count(counts.Files.Load(), "file", "files"),
					humanize.Bytes(uint64(counts.Bytes.Load())), humanize.Bytes(uint64(counts.Moved.Load())))
			}
		}
	}()
	return func() { close(stop); <-stopped }
}

func newSnapshotCreateCommand() *cobra.Command {
	var (
		s            snapshotCommand
		function     string
		tags         []string
		excludes     []string
		excludeFiles []string
		dry, whole   bool
	)
	cmd := &cobra.Command{
		Use:   "create NAME DIR",
		Short: "Keep a directory under a name",
		Long: `Send a directory and all below it, keep it on the server, and print the ID and the root's digest. What did not change
since this machine's newest snapshot of the same NAME is not read again: files of the same size and time, to which nothing
was done since.

--exclude takes a pattern as in .gitignore; the last one that matches counts. What can't be kept (sockets, pipes,
devices, names that are not UTF-8, what may not be read) is named on standard error, and makes the status 1, though the snapshot is kept.

With buildbox, 'casdownload --remote=http://HOST:PORT --root-digest=HASH/SIZE --destination-dir=DIR' gets it too.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, ok := digest.FunctionNamed(function)
			if !ok {
				return fmt.Errorf("unknown digest function %q; --digest-function takes sha256 or blake3", function)
			}
			patterns, err := readExcludes(excludes, excludeFiles)
			if err != nil {
				return err
			}
			return s.create(cmd, args[0], args[1], tags, snapshot.Options{Function: f, Excludes: patterns, Dry: dry}, whole)
		},
	}
	s.flags(cmd)
	cmd.Flags().StringArrayVar(&tags, "tag", nil, "a word to find it by; may be given several times")
	cmd.Flags().StringArrayVar(&excludes, "exclude", nil, "a pattern of what to leave out; may be given several times")
	cmd.Flags().StringArrayVar(&excludeFiles, "exclude-file", nil, "a file of such patterns, one a line")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "read everything, send nothing, and say what would be sent")
	cmd.Flags().BoolVar(&whole, "read-all", false, "read files that look unchanged too")
	cmd.Flags().StringVar(&function, "digest-function", digest.SHA256.String(), "what to hash with: sha256 or blake3")
	return cmd
}

func readExcludes(patterns, files []string) (e snapshot.Excludes, err error) {
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return e, err
		}
		err = e.AddAll(f)
		f.Close()
		if err != nil {
			return e, fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, p := range patterns {
		if err := e.Add(p); err != nil {
			return e, err
		}
	}
	return e, nil
}

func (s *snapshotCommand) create(cmd *cobra.Command, name, dir string, tags []string, o snapshot.Options, whole bool) error {
	ctx := cmd.Context()
	c, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	began := time.Now()
	before, err := c.Snapshots(ctx, name)
	if err != nil {
		return err
	}
	host, _ := os.Hostname()
	host = strings.ToValidUTF8(host, "?")
	if n := len(before); n > 0 && !whole && digest.Function(before[n-1].DigestFunction) == o.Function {
		if o.Before, err = rootOf(before[n-1]); err != nil {
			return err
		}
		if before[n-1].Host == host { // another machine's clock says nothing here
			o.BeforeTime = before[n-1].Time.AsTime()
		}
	}
	skipped := 0
	o.Skipped = func(name string, why error) {
		skipped++
		fmt.Fprintf(cmd.ErrOrStderr(), "left out: %s: %v\n", printable(name), why)
	}
	full, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	made := &snapshotpb.Snapshot{
		Name: name, Time: timestamppb.New(began), Host: host, Path: strings.ToValidUTF8(full, "?"), Tags: tags,
	}
	o.Counts = new(snapshot.Counts)
	done := watch(cmd.ErrOrStderr(), "read", o.Counts)
	made, err = snapshot.Create(ctx, c, dir, made, o)
	done()
	if err != nil {
		return err
	}
	verb := "kept"
	if o.Dry {
		verb = "would keep"
	}
	if s.json {
		err = printJSON(cmd.OutOrStdout(), shown(made))
	} else {
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n%s %s, %s, %s; %s sent, in %v\n", made.Id, shown(made).Root, verb, count(made.Files, "file", "files"),
			count(made.Directories, "directory", "directories"), humanize.Bytes(uint64(made.Bytes)), humanize.Bytes(uint64(made.SentBytes)), time.Since(began).Round(time.Millisecond))
	}
	if err == nil && skipped > 0 {
		err = fmt.Errorf("the snapshot lacks %s that could not be kept", count(int64(skipped), "thing", "things"))
	}
	return err
}

func newSnapshotListCommand() *cobra.Command {
	var s snapshotCommand
	cmd := &cobra.Command{
		Use:   "list [NAME]",
		Short: "List what is kept",
		Long:  "List the snapshots of NAME, or of all names, oldest first: name, ID, files, bytes, the root's digest, where it is from, and its tags.",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			all, err := c.Snapshots(cmd.Context(), strings.Join(args, ""))
			if err != nil {
				return err
			}
			if s.json {
				list := []shownSnapshot{}
				for _, one := range all {
					list = append(list, shown(one))
				}
				return printJSON(cmd.OutOrStdout(), list)
			}
			return listSnapshots(cmd.OutOrStdout(), all, func(*snapshotpb.Snapshot) string { return "" })
		},
	}
	s.flags(cmd)
	return cmd
}

// listSnapshots writes a line for each, with what note says of it at the end.
func listSnapshots(w io.Writer, all []*snapshotpb.Snapshot, note func(*snapshotpb.Snapshot) string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range all {
		root, err := rootOf(s)
		if err != nil {
			return err
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, s.Id, count(s.Files, "file", "files"), humanize.Bytes(uint64(max(0, s.Bytes))), root,
			printable(strings.Join(append([]string{s.Host + ":" + s.Path}, s.Tags...), " ")), note(s))
	}
	return t.Flush()
}

func newSnapshotRestoreCommand() *cobra.Command {
	var (
		s snapshotCommand
		o snapshot.RestoreOptions
	)
	cmd := &cobra.Command{
		Use:   "restore SNAPSHOT DIR",
		Short: "Write a snapshot, or a part of it, to a directory",
		Long: `Write a snapshot to a directory, which is made if need be. SNAPSHOT is a NAME, which is the newest one of it, or an ID or
its beginning.

Files and links of the same names are replaced, each at once; files that are as they should be are not fetched, and of
those that differ only the chunks that do. What has other names stays. Zeros become holes.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Counts = new(snapshot.Counts)
			verb := "wrote"
			if o.Dry {
				verb = "would write"
			}
			return s.each(cmd, args[:1], verb, o.Counts, func(ctx context.Context, c *client.Client, root digest.Digest) error {
				return snapshot.Restore(ctx, c, root, args[1], o)
			})
		},
	}
	s.flags(cmd)
	cmd.Flags().StringArrayVar(&o.Paths, "path", nil, "only this file or directory of the snapshot; may be given several times")
	cmd.Flags().BoolVar(&o.Dry, "dry-run", false, "count, and write nothing")
	return cmd
}

func newSnapshotVerifyCommand() *cobra.Command {
	var s snapshotCommand
	cmd := &cobra.Command{
		Use:   "verify SNAPSHOT...",
		Short: "Read every byte of snapshots",
		Long: `Read every byte of snapshots from the server and compare the hashes. What is not there, or is not what it should be, is
named on standard error, and makes the status 1. Nothing is written.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			counts, wrong := new(snapshot.Counts), int64(0)
			err := s.each(cmd, args, "verified", counts, func(ctx context.Context, c *client.Client, root digest.Digest) error {
				return snapshot.Verify(ctx, c, root, counts, func(name string, err error) {
					wrong++
					fmt.Fprintf(cmd.ErrOrStderr(), "damaged: %s: %v\n", printable(name), err)
				})
			})
			if err == nil && wrong > 0 {
				err = fmt.Errorf("%s damaged or missing", count(wrong, "file or directory is", "files or directories are"))
			}
			return err
		},
	}
	s.flags(cmd)
	return cmd
}

// each calls do with the root of each snapshot that is named, and says what was counted.
func (s *snapshotCommand) each(cmd *cobra.Command, names []string, verb string, counts *snapshot.Counts, do func(context.Context, *client.Client, digest.Digest) error) error {
	c, err := s.dial(cmd.Context())
	if err != nil {
		return err
	}
	defer c.Close()
	began := time.Now()
	defer watch(cmd.ErrOrStderr(), verb, counts)()
	var failed error
	for _, name := range names {
		one, err := find(cmd.Context(), c, name)
		if err == nil {
			var root digest.Digest
			if root, err = rootOf(one); err == nil {
				err = do(cmd.Context(), c, root)
			}
			if err != nil {
				err = fmt.Errorf("snapshot %s: %w", one.Id, err)
			}
		}
		failed = errors.Join(failed, err) // the others are looked at all the same
	}
	if failed != nil {
		return failed
	}
	took := time.Since(began)
	if s.json {
		return printJSON(cmd.OutOrStdout(), map[string]any{
			"files": counts.Files.Load(), "directories": counts.Directories.Load(), "symlinks": counts.Symlinks.Load(),
			"bytes": counts.Bytes.Load(), "received_bytes": counts.Moved.Load(), "seconds": took.Seconds(),
		})
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s, %s, %s; %s received, in %v\n", verb, count(counts.Files.Load(), "file", "files"),
		count(counts.Directories.Load(), "directory", "directories"), humanize.Bytes(uint64(counts.Bytes.Load())),
		humanize.Bytes(uint64(counts.Moved.Load())), took.Round(time.Millisecond))
	return err
}

// errNoRule says that a forget would forget all.
var errNoRule = &usageError{errors.New("give at least one --keep rule, or --id for what to forget")}
