package script

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func flip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: flip DIR FILE")
	}
	data := []byte(ts.ReadFile(args[1]))
	names, err := filepath.Glob(filepath.Join(ts.MkAbs(args[0]), "*.seg"))
	ts.Check(err)
	flipped := 0
	for _, name := range names {
		segment, err := os.ReadFile(name)
		ts.Check(err)
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		ts.Check(err)
		for from := 0; ; flipped++ {
			at := bytes.Index(segment[from:], data)
			if at < 0 {
				break
			}
			middle := from + at + len(data)/2
			_, err = f.WriteAt([]byte{segment[middle] ^ 1}, int64(middle))
			ts.Check(err)
			from += at + len(data)
		}
		ts.Check(f.Close())
	}
	if flipped == 0 {
		ts.Fatalf("no segment in %s has the bytes of %s", args[0], args[1])
	}
}

func jsonLines(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: jsonlines FILE")
	}
	text := ts.ReadFile(args[0])
	if text == "" {
		ts.Fatalf("%s is empty", args[0])
	}
	for line := range strings.Lines(text) {
		var object map[string]any
		if err := json.Unmarshal([]byte(line), &object); err != nil || !strings.HasSuffix(line, "\n") {
			ts.Fatalf("not a JSON object: %s (%v)", line, err)
		}
	}
}

func hangup(ts *testscript.TestScript, neg bool, args []string) {
	s := stateOf(ts)
	if neg || len(args) != 1 || s.sarsen == nil {
		ts.Fatalf("usage: hangup TEXT, after start")
	}
	ts.Check(s.sarsen.Process.Signal(syscall.SIGHUP))
	s.says(ts, s.err, args[0])
}

func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await URL REGEXP")
	}
	want, err := regexp.Compile(args[1])
	ts.Check(err)
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		r := do(ts, http.MethodGet, args[0], nil, 0)
		if r.err == nil && want.Match(r.body) {
			r.check(ts, false)
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s did not match %s within %s; it is %s (%v)", args[0], want, patience, r.body, r.err)
		}
	}
}
