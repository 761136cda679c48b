package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/client"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/upstream"
)

const digestHelp = `
DIGEST is HASH/SIZE, which is SHA-256, or blake3/HASH/SIZE.`

// A remote says which server a command looks into.
type remote struct{ server, instance string }

func (r *remote) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&r.server, "server", "grpc://127.0.0.1:8980", "the server: grpc://HOST:PORT, or grpcs://HOST:PORT for TLS"+accessText)
	cmd.Flags().StringVar(&r.instance, "instance", "", "the instance name; blobs are shared by all instances of a Sarsen, action results are not")
}

// dial connects to the server and asks for its capabilities.
func (r *remote) dial(ctx context.Context) (*client.Client, error) {
	target, err := client.ParseTarget(r.server)
	if err != nil {
		return nil, err
	}
	options, err := accessOfVariables().Options(target)
	if err != nil {
		return nil, err
	}
	return client.Dial(ctx, r.server, r.instance, options...)
}

// inspector returns a command that takes one digest and looks into a server.
func inspector(name, short, long string, run func(ctx context.Context, c *client.Client, d digest.Digest, w io.Writer) error) *cobra.Command {
	var from remote
	cmd := &cobra.Command{
		Use:   name + " DIGEST",
		Short: short,
		Long:  long + "\n" + digestHelp,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := cobra.ExactArgs(1)(cmd, args); err != nil {
				return err
			}
			_, err := digest.Parse(args[0])
			return err
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := digest.Parse(args[0])
			if err != nil {
				return err
			}
			c, err := from.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			w := bufio.NewWriter(cmd.OutOrStdout())
			err = run(cmd.Context(), c, d, w)
			// What was found before the error is worth seeing.
			return errors.Join(err, w.Flush())
		},
	}
	from.flags(cmd)
	return cmd
}

func newGetCommand() *cobra.Command {
	var seeds []string
	cmd := inspector("get", "Write a blob to standard output",
		`Write the blob of a digest to standard output, verified. The status is 1 if it is absent or if its
bytes are wrong; of a blob over 4 MiB, wrong bytes may have been written by then.

With --seed FILE, chunks that FILE has are not fetched: give the version of a large blob that you have.`,
		func(ctx context.Context, c *client.Client, d digest.Digest, w io.Writer) error {
			if len(seeds) == 0 {
				return c.Get(ctx, d, w)
			}
			s := c.Seeds(d.Function)
			if s == nil {
				return fmt.Errorf("%s does not split blobs; leave out --seed", c.Target())
			}
			for _, file := range seeds {
				if err := s.Add(file); err != nil {
					return err
				}
			}
			_, err := c.GetSeeded(ctx, d, s, w)
			return err
		})
	cmd.Flags().StringArrayVar(&seeds, "seed", nil, "a file that may have chunks of the blob; may be given several times")
	return cmd
}

func newLsCommand() *cobra.Command {
	return inspector("ls", "List a Directory",
		`List what a Directory message names: mode, size in bytes, digest and name of each entry, and where
symbolic links point. REAPI knows only whether a file is executable; the mode shows no more, unless the
directory carries Unix modes.`,
		func(ctx context.Context, c *client.Client, d digest.Digest, w io.Writer) error {
			directory, err := c.Directory(ctx, d)
			if err != nil {
				return err
			}
			return listDirectory(w, d.Function, directory)
		})
}

func newTreeCommand() *cobra.Command {
	var paths bool
	cmd := inspector("tree", "List a directory and all below it",
		`List a whole tree, given the digest of its root Directory. Directories that are named and absent are
marked, and make the status 1.`,
		func(ctx context.Context, c *client.Client, d digest.Digest, w io.Writer) error {
			tree, err := c.Tree(ctx, d)
			if err != nil {
				return err
			}
			p := &treePrinter{w: w, tree: tree, paths: paths}
			p.directory(d, "")
			s := tree.Summary()
			if !paths {
				fmt.Fprintln(w, summarize(s))
			}
			if s.Missing > 0 {
				return fmt.Errorf("%s: %s of the tree are missing", c.Target(), count(s.Missing, "directory", "directories"))
			}
			return nil
		})
	cmd.Flags().BoolVar(&paths, "paths", false, "print a digest and a whole path a line instead of indenting names")
	return cmd
}

// An entry is a line of a directory listing.
type entry struct {
	name   string
	mode   fs.FileMode
	digest *repb.Digest // nil of a symbolic link
	target string       // of a symbolic link
}

// entries returns all that directory names, by name.
func entries(directory *repb.Directory) []entry {
	var list []entry
	for _, d := range directory.Directories {
		list = append(list, entry{name: d.Name, mode: fs.ModeDir | 0o755, digest: d.Digest})
	}
	for _, f := range directory.Files {
		mode := fs.FileMode(0o644)
		if f.IsExecutable {
			mode = 0o755
		}
		if m := f.GetNodeProperties().GetUnixMode(); m != nil {
			mode = fs.FileMode(m.Value).Perm()
		}
		list = append(list, entry{name: f.Name, mode: mode, digest: f.Digest})
	}
	for _, l := range directory.Symlinks {
		list = append(list, entry{name: l.Name, mode: fs.ModeSymlink | 0o777, target: l.Target})
	}
	slices.SortFunc(list, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return list
}

// title returns the entry's name with the mark of its kind.
func (e entry) title() string {
	switch {
	case e.mode.IsDir():
		return printable(e.name) + "/"
	case e.mode.Type() == fs.ModeSymlink:
		return printable(e.name) + " -> " + printable(e.target)
	}
	return printable(e.name)
}

// label returns the entry's digest in the form that the commands take.
func (e entry) label(f digest.Function) string { return label(f, e.digest) }

func label(f digest.Function, p *repb.Digest) string {
	if p == nil {
		return "-"
	}
	d, err := upstream.FromProto(f, p)
	if err != nil {
		return fmt.Sprintf("(%v)", err)
	}
	return d.String()
}

func listDirectory(w io.Writer, f digest.Function, directory *repb.Directory) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, e := range entries(directory) {
		size := "-"
		if e.mode.IsRegular() {
			size = fmt.Sprint(e.digest.GetSizeBytes())
		}
		// Go marks a symbolic link with a capital, ls does not.
		mode := strings.Replace(e.mode.String(), "L", "l", 1)
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", mode, size, e.label(f), e.title())
	}
	return t.Flush()
}

// A treePrinter writes a tree, a name or a path a line. Its writer keeps the first error.
type treePrinter struct {
	w     io.Writer
	tree  *client.Tree
	paths bool
}

// directory writes what is in d, each line after the given prefix.
func (p *treePrinter) directory(d digest.Digest, prefix string) {
	for _, e := range entries(p.tree.Directories[d]) {
		child, known := digest.Digest{}, false
		if e.mode.IsDir() {
			var err error
			child, err = upstream.FromProto(d.Function, e.digest)
			known = err == nil && p.tree.Directories[child] != nil
		}
		note := ""
		if e.mode.IsDir() && !known {
			note = "  (missing)"
			if !p.paths {
				note = "  (missing: " + e.label(d.Function) + ")"
			}
		}
		if p.paths {
			fmt.Fprintf(p.w, "%s  %s%s%s\n", e.label(d.Function), prefix, e.title(), note)
			prefix := prefix + printable(e.name) + "/"
			if known {
				p.directory(child, prefix)
			}
			continue
		}
		fmt.Fprintf(p.w, "%s%s%s\n", prefix, e.title(), note)
		if known {
			p.directory(child, prefix+"  ")
		}
	}
}

// printable returns text, quoted if a terminal could take it for more than text.
func printable(text string) string {
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
		return fmt.Sprintf("%q", text)
	}
	return text
}

func count(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return humanize.Comma(n) + " " + many
}

func summarize(s client.Summary) string {
	text := fmt.Sprintf("%s, %s, %s, %s",
		count(s.Directories, "directory", "directories"), count(s.Files, "file", "files"),
		count(s.Symlinks, "symbolic link", "symbolic links"), humanize.Bytes(uint64(max(s.Bytes, 0))))
	if s.Missing > 0 {
		text += fmt.Sprintf(", %s missing", count(s.Missing, "directory", "directories"))
	}
	return text
}

func newActionCommand() *cobra.Command {
	return inspector("action", "Show an action, its command, its inputs and its result",
		`Show an action: its command (arguments, environment, platform, outputs), a summary of its input root,
the result that the action cache of --instance has for it, and which of the blobs that the result names
are missing. Action and result may be there without each other; the status is 1 if neither is.`,
		showAction)
}

func showAction(ctx context.Context, c *client.Client, d digest.Digest, w io.Writer) error {
	action, actionErr := c.Action(ctx, d)
	if actionErr != nil && !errors.Is(actionErr, blob.ErrNotFound) {
		return actionErr
	}
	result, resultErr := c.Result(ctx, d)
	if resultErr != nil && (actionErr != nil || !errors.Is(resultErr, blob.ErrNotFound)) {
		return resultErr
	}
	p := &actionPrinter{w: w, client: c, function: d.Function}
	if actionErr != nil {
		p.line("action", "%s, not in the CAS", d)
	} else {
		p.line("action", "%s", d)
		if err := p.action(ctx, action); err != nil {
			return err
		}
	}
	if resultErr != nil {
		p.line("result", "none in the action cache")
		return nil
	}
	return p.result(ctx, result)
}
