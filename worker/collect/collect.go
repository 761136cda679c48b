// Package collect takes the outputs of an action that has run: it reads what the command names below
// the action's root, stores what the store lacks, and says what it found as an ActionResult does.
//
// The action is not trusted, and something of it may still run. No path is ever joined and opened: the
// parents of an output are resolved by os.Root, which follows links inside the root only; from there on
// each name is opened by itself, relative to the descriptor of its directory, never through a link, and
// looked at again once it is open.
//
// # What is refused
//
// An error that wraps ErrRefused names the output and says why: FIFOs, sockets and devices; names and
// targets that are not UTF-8, which the protocol can't say; a file that changes while it is read; a
// directory that was listed as a file, or a file as a directory; links that lead out of the root, unless
// Options.Absolute allows it. An absolute link to a place inside the root is made relative. One to a place
// outside is refused and its content is not taken instead: what it shows is not the action's own output,
// and a worker's files are nobody's to upload.
//
// Bits above 0777 are never recorded. A missing output is left out of the result.
//
// # Invariants
//
//   - Nothing outside the root is read, whatever changes while Collect runs.
//   - When Collect returns a result, every blob that it names, those inside its trees too, is stored.
//   - What is held in memory of the contents of outputs is bounded by Options.Memory.
//
// # Concurrency
//
// Collect may be called for many roots at once. Inside, one goroutine walks, several hash, and several
// store: files are stored while others are still being found. Each waits only for the next one, so none
// waits for itself.
package collect

//lint:file-ignore SA1019 clients of API 2.0 read the old fields

import (
	"context"
	"errors"
	"fmt"
	"os"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/upstream"
)

// What can go wrong besides the store. What is wrong with the command wraps blob.ErrInvalid.
var (
	// ErrRefused says that an output is of a kind that can't be taken: REAPI's FAILED_PRECONDITION.
	ErrRefused = errors.New("output refused")
	// ErrLimit says that the outputs are more than Options allow.
	ErrLimit = errors.New("too much output")
)

// Options say what is taken. The zero value has the defaults.
type Options struct {
	MaxBytes int64 // of all files; 64 GiB if 0
	MaxFiles int   // files, directories and links; a million if 0
	MaxDepth int   // directories inside each other below an output; 200 if 0

	// Absolute is the strategy that the capabilities advertise for links that are absolute or lead above
	// the root; all but ALLOWED disallows them.
	Absolute repb.SymlinkAbsolutePathStrategy_Value
	// RefuseDangling refuses links to nothing. Else they are recorded as they are.
	RefuseDangling bool
	// Seen are the absolute paths by which the action knew its root, so that absolute links into it can
	// be made relative.
	Seen []string

	Memory   int64 // bytes of contents on their way to the store; 32 MiB if 0, 4 MiB at least
	Parallel int   // files hashed, and batches stored, at once; 4 if 0
}

func (o Options) withDefaults() Options {
	if o.MaxBytes <= 0 {
		o.MaxBytes = 64 << 30
	}
	if o.MaxFiles <= 0 {
		o.MaxFiles = 1_000_000
	}
	if o.MaxDepth <= 0 {
		o.MaxDepth = 200
	}
	if o.Memory <= 0 {
		o.Memory = 32 << 20
	}
	o.Memory = max(o.Memory, 4<<20)
	if o.Parallel <= 0 {
		o.Parallel = 4
	}
	return o
}

// Collect reads what command names as outputs below root, stores in to what is missing there, and returns
// a result of which only the fields about outputs are set. It ends early when ctx does.
func Collect(ctx context.Context, root *os.Root, command *repb.Command, f digest.Function, to blob.Batcher, o Options) (*repb.ActionResult, error) {
	c := &collector{root: root, function: f, options: o.withDefaults(), format: command.OutputDirectoryFormat}
	var err error
	if c.work, err = workingDirectory(command); err != nil {
		return nil, err
	}
	outputs, err := outputsOf(command, c.work)
	if err != nil {
		return nil, err
	}
	if c.properties, err = propertiesOf(command); err != nil {
		return nil, err
	}
	c.line = newLine(ctx, f, to, c.options)
	found := make([]*node, len(outputs))
	for i, out := range outputs {
		if found[i], err = c.find(out); err != nil {
			break
		}
	}
	// The digests of all files are known when the hashing is over, and those of directories follow.
	c.line.fail(err)
	if err := c.line.hashed(); err != nil {
		return nil, c.line.finish()
	}
	result := new(repb.ActionResult)
	for i, out := range outputs {
		if err = c.record(result, out, found[i]); err != nil {
			c.line.fail(err)
			break
		}
	}
	if err := c.line.finish(); err != nil {
		return nil, err
	}
	return result, nil
}

// A collector is one call of Collect.
type collector struct {
	root       *os.Root
	function   digest.Function
	options    Options
	work       string // the working directory, relative to root
	properties properties
	format     repb.Command_OutputDirectoryFormat
	line       *line

	entries int
	bytes   int64
}

// refuse returns an ErrRefused that names a path relative to the root.
func refuse(at, format string, args ...any) error {
	return fmt.Errorf("%w: %q %s", ErrRefused, at, fmt.Sprintf(format, args...))
}

// count accounts for one more entry of size bytes.
func (c *collector) count(at string, size int64) error {
	if c.entries++; c.entries > c.options.MaxFiles {
		return fmt.Errorf("%w: more than %d files, directories and links; the limit was reached at %q", ErrLimit, c.options.MaxFiles, at)
	}
	if size > c.options.MaxBytes-c.bytes {
		return fmt.Errorf("%w: more than %d bytes; the limit was reached at %q, which has %d", ErrLimit, c.options.MaxBytes, at, size)
	}
	c.bytes += size
	return nil
}

// record adds what was found as out to the result.
func (c *collector) record(result *repb.ActionResult, out output, n *node) error {
	if n == nil {
		return nil
	}
	switch n.kind {
	case file:
		result.OutputFiles = append(result.OutputFiles, &repb.OutputFile{
			Path: out.path, Digest: upstream.ToProto(n.digest), IsExecutable: n.executable, NodeProperties: n.properties,
		})
	case symlink:
		link := &repb.OutputSymlink{Path: out.path, Target: n.target, NodeProperties: n.properties}
		// Who named the output in one of the old fields knows no output_symlinks, and the old fields are
		// filled for all others too.
		if out.kind == anything {
			result.OutputSymlinks = append(result.OutputSymlinks, link)
		}
		if out.kind == aFile || out.kind == anything && n.leadsTo == aFile {
			result.OutputFileSymlinks = append(result.OutputFileSymlinks, link)
		}
		if out.kind == aDirectory || out.kind == anything && n.leadsTo == aDirectory {
			result.OutputDirectorySymlinks = append(result.OutputDirectorySymlinks, link)
		}
	case directory:
		recorded, err := c.tree(out.path, n)
		if err != nil {
			return err
		}
		result.OutputDirectories = append(result.OutputDirectories, recorded)
	}
	return nil
}
