package persist

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// testTool is this test's own program as a persistent worker. Its requests say what it does: the first argument is a
// verb, and what it has to say is the output of the response.
func testTool(args []string) {
	if !slices.Contains(args, "--persistent_worker") {
		oneShot(args)
	}
	if slices.Contains(args, "--old") {
		fmt.Fprintln(os.Stderr, "unknown option --persistent_worker")
		os.Exit(2)
	}
	t := &toolSide{in: bufio.NewReader(os.Stdin), json: slices.Contains(args, "--json")}
	for n := 1; ; n++ {
		arguments, inputs := t.request()
		t.inputs, t.number = inputs, n
		output, code := t.do(arguments[0], arguments[1:])
		t.respond(response{ExitCode: code, Output: output})
		if t.after != nil {
			t.after()
		}
	}
}

// oneShot is the tool as an ordinary command.
func oneShot(args []string) {
	for _, a := range args {
		if strings.HasPrefix(a, "@") {
			text, _ := os.ReadFile(a[1:])
			lines := strings.Split(strings.TrimSpace(string(text)), "\n")
			output, code := new(toolSide).do(lines[0], lines[1:])
			fmt.Fprint(os.Stderr, output)
			os.Exit(int(code))
		}
	}
	os.Exit(9)
}

type toolSide struct {
	in     *bufio.Reader
	json   bool
	inputs []string
	number int
	held   *os.File
	memory string
	after  func()
}

func (t *toolSide) request() (arguments, inputs []string) {
	if t.json {
		line, err := t.in.ReadBytes('\n')
		if err != nil {
			os.Exit(0)
		}
		var m struct {
			Arguments []string
			Inputs    []struct {
				Path   string
				Digest []byte
			}
		}
		if err := json.Unmarshal(line, &m); err != nil {
			panic(err)
		}
		for _, i := range m.Inputs {
			inputs = append(inputs, i.Path+" "+string(i.Digest))
		}
		return m.Arguments, inputs
	}
	n, err := binary.ReadUvarint(t.in)
	if err != nil {
		os.Exit(0)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(t.in, body); err != nil {
		panic(err)
	}
	each(body, func(field protowire.Number, b []byte) {
		if field == requestArguments {
			arguments = append(arguments, string(b))
			return
		}
		var in []string
		each(b, func(_ protowire.Number, b []byte) { in = append(in, string(b)) })
		inputs = append(inputs, strings.Join(in, " "))
	})
	return arguments, inputs
}

// each calls f for every field, all of which are bytes.
func each(b []byte, f func(protowire.Number, []byte)) {
	for len(b) > 0 {
		field, _, n := protowire.ConsumeTag(b)
		value, m := protowire.ConsumeBytes(b[n:])
		f(field, value)
		b = b[n+m:]
	}
}

func (t *toolSide) respond(r response) {
	if t.json {
		b, _ := json.Marshal(r)
		_, _ = os.Stdout.Write(append(b, '\n'))
		return
	}
	var b []byte
	if r.ExitCode != 0 {
		b = protowire.AppendVarint(protowire.AppendTag(b, responseExitCode, protowire.VarintType), uint64(r.ExitCode))
	}
	if r.Output != "" {
		b = protowire.AppendString(protowire.AppendTag(b, responseOutput, protowire.BytesType), r.Output)
	}
	if r.ID != 0 {
		b = protowire.AppendVarint(protowire.AppendTag(b, responseID, protowire.VarintType), uint64(r.ID))
	}
	_, _ = os.Stdout.Write(append(binary.AppendUvarint(nil, uint64(len(b))), b...))
}

func text(err error) string {
	if err != nil {
		return err.Error()
	}
	return "done"
}

// do does one verb.
func (t *toolSide) do(verb string, args []string) (output string, code int32) {
	switch verb {
	case "copy": // FROM TO
		b, err := os.ReadFile(args[0])
		if err == nil {
			err = os.WriteFile(args[1], b, 0o644)
		}
		return text(err), 0
	case "number":
		return fmt.Sprint(t.number), 0
	case "inputs":
		return strings.Join(t.inputs, "\n"), 0
	case "fail":
		return "it is wrong", 7
	case "list": // DIRECTORY
		names := []string{}
		err := filepath.WalkDir(args[0], func(name string, _ os.DirEntry, err error) error {
			names = append(names, name)
			return err
		})
		return strings.Join(names, " ") + " " + text(err), 0
	case "remember":
		old := t.memory
		t.memory = args[0]
		return old, 0
	case "hold": // FILE
		var err error
		t.held, err = os.OpenFile(args[0], os.O_CREATE|os.O_RDWR, 0o644)
		if err == nil {
			_, err = t.held.WriteString("first")
		}
		return text(err), 0
	case "spoil":
		_, err := t.held.WriteAt([]byte("spoilt"), 0)
		return text(err), 0
	case "write": // FILE
		err := os.Chmod(args[0], 0o644)
		if e := os.WriteFile(args[0], []byte("poison"), 0o644); e == nil {
			err = nil
		}
		return text(err), 0
	case "go": // DIRECTORY
		return text(os.Chdir(args[0])), 0
	}
	return t.misbehave(verb, args)
}

// misbehave does what no tool should.
func (t *toolSide) misbehave(verb string, args []string) (string, int32) {
	switch verb {
	case "say": // TEXT, on standard output
		_, _ = os.Stdout.WriteString(args[0])
		time.Sleep(time.Hour)
	case "die":
		fmt.Fprintln(os.Stderr, "I am not well")
		os.Exit(3)
	case "kill":
		fmt.Fprintln(os.Stderr, "I am not well")
		p, _ := os.FindProcess(os.Getpid())
		_ = p.Kill()
		time.Sleep(time.Hour)
	case "close":
		_ = os.Stdout.Close()
		time.Sleep(time.Hour)
	case "hang":
		fmt.Fprintln(os.Stderr, "this takes a while")
		time.Sleep(time.Hour)
	case "wrong id":
		t.respond(response{ID: 7})
		time.Sleep(time.Hour)
	case "twice":
		t.after = func() { t.respond(response{Output: "again"}) }
		return "once", 0
	case "flood":
		for {
			_, _ = os.Stdout.Write(append(binary.AppendUvarint(nil, 1<<40), make([]byte, 1<<16)...))
		}
	case "flood json":
		_, _ = os.Stdout.WriteString(`{"output":"`)
		for {
			_, _ = os.Stdout.WriteString(strings.Repeat("x", 1<<16))
		}
	case "litter":
		t.after = func() {
			for { // until its home was emptied
				if _, err := os.Stat("args"); err != nil {
					break
				}
				time.Sleep(time.Millisecond)
			}
			_ = os.WriteFile("litter", []byte("private"), 0o600)
			t.after = nil
		}
	case "replace": // the working directory by a link
		here, _ := os.Getwd()
		return text(os.Rename(here, here+".old")) + text(os.Symlink("/etc", here)), 0
	}
	return "", 0
}
