package persist

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/worker/sandbox"
)

// The properties by which clients ask.
const (
	keyProperty      = "persistentWorkerKey"      // Bazel's, from the tool's files, command line and environment
	protocolProperty = "persistentWorkerProtocol" // Bazel sends none; rules set it as an exec property
	supports         = "supports-workers"         // what Bazel's rules say of themselves, where a client passes it on
	requires         = "requires-worker-protocol" // the same
)

// An Input is one file of the staged root.
type Input struct {
	Path   string
	Digest digest.Digest
	Tool   bool // it is marked as the tool's
}

// An Action is one that asks for a persistent worker.
type Action struct {
	Spec     sandbox.Spec // as it would be run without
	Platform *repb.Platform
	Instance string
	Inputs   []Input // all of them
}

// Asked reports whether a platform asks for a persistent worker.
func Asked(p *repb.Platform) bool {
	return property(p, keyProperty) != "" || property(p, supports) == "1" || property(p, requires) != ""
}

func property(p *repb.Platform, name string) string {
	for _, q := range p.GetProperties() {
		if q.GetName() == name {
			return q.GetValue()
		}
	}
	return ""
}

// A request is an action as a tool gets it.
type request struct {
	key      [32]byte
	spec     sandbox.Spec
	startup  []string // the command line of the process
	protocol protocol
	body     []byte   // the WorkRequest, encoded
	way      []string // the components of the working directory
	staged   levels   // of the staged root
}

// newRequest returns what a is to a tool, or why it can't be served by one. The caller closes staged.
func newRequest(a Action) (*request, error) {
	q := &request{spec: a.Spec}
	var err error
	if q.protocol, err = protocolOf(cmp.Or(property(a.Platform, protocolProperty), property(a.Platform, requires))); err != nil {
		return nil, err
	}
	var flagFiles []string
	if q.startup, flagFiles, err = split(a.Spec.Args); err != nil {
		return nil, err
	}
	if dir := path.Clean("/" + a.Spec.Dir); dir != "/" {
		q.way = strings.Split(dir[1:], "/")
	}
	q.key = keyOf(a, q)
	if !slices.ContainsFunc(a.Inputs, func(i Input) bool { return i.Tool }) {
		return nil, errors.New("no input is marked as the tool's (--experimental_remote_mark_tool_inputs)")
	}
	root, err := os.OpenRoot(a.Spec.Root)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	x := &expander{root: root, dir: a.Spec.Dir, left: maxFlags}
	for _, arg := range flagFiles {
		if err := x.expand(arg, 0); err != nil {
			return nil, err
		}
	}
	if q.body, err = q.protocol.encode(x.arguments, a.Inputs); err != nil {
		return nil, err
	}
	q.staged, err = openLevels(a.Spec.Root, q.way)
	return q, err
}

// keyOf returns what two actions must have in common to share a process.
func keyOf(a Action, q *request) [32]byte {
	h := sha256.New()
	put := func(texts ...string) {
		_ = binary.Write(h, binary.LittleEndian, int64(len(texts)))
		for _, text := range texts {
			_ = binary.Write(h, binary.LittleEndian, int64(len(text)))
			_, _ = io.WriteString(h, text)
		}
	}
	put(a.Instance, property(a.Platform, keyProperty), string(q.protocol))
	put(q.way...)
	put(q.startup...)
	put(slices.Sorted(slices.Values(a.Spec.Env))...)
	put(fmt.Sprint(a.Spec.Memory, a.Spec.CPU, a.Spec.Pids, a.Spec.Files, a.Spec.Network))
	var tool []string
	for _, i := range a.Inputs {
		if i.Tool {
			tool = append(tool, i.Path+"\x00"+i.Digest.String())
		}
	}
	slices.Sort(tool)
	put(tool...)
	return [32]byte(h.Sum(nil))
}

// split returns the arguments that start the tool, and those that name its work.
func split(args []string) (startup, flagFiles []string, err error) {
	for _, arg := range args {
		isFlag := false
		for _, prefix := range []string{"@", "--flagfile=", "-flagfile="} {
			isFlag = isFlag || len(arg) > len(prefix) && strings.HasPrefix(arg, prefix)
		}
		if isFlag {
			flagFiles = append(flagFiles, arg)
		} else {
			startup = append(startup, arg)
		}
	}
	switch {
	case len(startup) == 0:
		return nil, nil, errors.New("the command line has no tool but only flag files")
	case len(flagFiles) == 0:
		return nil, nil, errors.New("the command line has no @FILE and no --flagfile=FILE")
	}
	return append(startup, "--persistent_worker"), flagFiles, nil
}

// maxFlags bounds the arguments of a request and maxResponse a response, in bytes; maxFlagDepth bounds flag files
// that name each other.
const (
	maxFlags     = 64 << 20
	maxResponse  = 16 << 20
	maxFlagDepth = 16
)

// An expander makes the arguments of a request out of flag files.
type expander struct {
	root      *os.Root
	dir       string // against which their names are taken
	left      int
	arguments []string
}

// expand appends an argument, or the lines of the file that @FILE names. @@ begins an argument that begins with
// @, and @REPOSITORY//LABEL is a label of Bazel's.
func (x *expander) expand(arg string, depth int) error {
	if x.left -= len(arg) + 1; x.left < 0 {
		return fmt.Errorf("the flag files have more than %d bytes", maxFlags)
	}
	if len(arg) < 2 || arg[0] != '@' || arg[1] == '@' || strings.Contains(arg, "//") {
		x.arguments = append(x.arguments, arg)
		return nil
	}
	if depth == maxFlagDepth {
		return fmt.Errorf("the flag file %q lies deeper than %d others", arg, maxFlagDepth)
	}
	name := arg[1:]
	if !path.IsAbs(name) {
		name = path.Join(x.dir, name)
	}
	file, err := x.root.Open(name)
	if err != nil {
		return fmt.Errorf("the flag file %q: %w", arg, err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, maxFlags)
	for lines.Scan() {
		if err := x.expand(lines.Text(), depth+1); err != nil {
			return err
		}
	}
	return lines.Err()
}
