package launch

import (
	"bytes"
	"go/build"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestImports: what is not in the list, or imports what is not, is initialised after much of the program. Before adding
// to it, look with GODEBUG=inittrace=1 where a compile comes.
func TestImports(t *testing.T) {
	early := []string{"errors", "os", "os/signal", "path", "runtime", "slices", "strconv", "sync", "syscall", "time", "unsafe"}
	p, err := build.ImportDir(".", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range p.Imports {
		if !slices.Contains(early, name) {
			t.Errorf("the launcher imports %s, and so begins late", name)
		}
	}
}

func TestNumber(t *testing.T) {
	for _, n := range []uint64{0, 1, 127, 128, 300, 1 << 32, math.MaxInt64, math.MaxUint64} {
		var e encoder
		e.number(n)
		d := decoder{b: e}
		if got := d.number(); got != n || d.end() != nil {
			t.Errorf("%x: got %d, %v, want %d", []byte(e), got, d.end(), n)
		}
	}
	for _, b := range []string{"", "\x80", strings.Repeat("\xff", 9) + "\x02", strings.Repeat("\x80", 10) + "\x01"} {
		d := decoder{b: []byte(b)}
		if got := d.number(); got != 0 || !d.bad {
			t.Errorf("%q: got %d, want an error", b, got)
		}
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct{ dir, file, want string }{
		{"/a/b", "/a/b/c", "c"},
		{"/a/b", "/a/bc/d", "../bc/d"},
		{"/a/b/x", "/a/c/d", "../../c/d"},
		{"/", "/a/b", "a/b"},
		{"/x", "/a/b", "../a/b"},
	} {
		if got := relative(c.dir, c.file); got != c.want {
			t.Errorf("%s in %s: got %q, want %q", c.file, c.dir, got, c.want)
		}
	}
	for _, c := range []struct {
		list string
		want []string
	}{{"", nil}, {"/a", []string{"/a"}}, {":/a", []string{"", "/a"}}, {"/a:/b:", []string{"/a", "/b", ""}}} {
		if got := list(c.list); !slices.Equal(got, c.want) {
			t.Errorf("%q: got %q, want %q", c.list, got, c.want)
		}
	}
}

func TestCommand(t *testing.T) {
	t.Setenv(Execute, "")
	for _, c := range []struct{ argv, want string }{
		{"sarsen cc gcc -c x.c", "gcc -c x.c"},
		{"/usr/bin/sarsen cc /opt/bin/tool -c x.c", "/opt/bin/tool -c x.c"},
		{"sarsen cc --remote gcc -c x.c", "gcc -c x.c"},
		{"sarsen cc --remote", ""},
		{"sarsen cc --remote --stats", ""},
		{"sarsen cc --stats", ""},
		{"sarsen cc", ""},
		{"sarsen version", ""},
		{"/usr/lib/sarsen/gcc -c x.c", "/usr/lib/sarsen/gcc -c x.c"},
		{"x86_64-linux-gnu-g++-12 -c x.cc", "x86_64-linux-gnu-g++-12 -c x.cc"},
		{"clang-14 -c x.c", "clang-14 -c x.c"},
		{"clang-cl.exe /c x.c", "clang-cl.exe /c x.c"},
		{"c++ -c x.cc", "c++ -c x.cc"},
		{"gcc-ar x", ""},
		{"acc -c x.c", ""},
		{"clang-tidy x.c", ""},
	} {
		got := strings.Join(command(strings.Fields(c.argv)), " ")
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.argv, got, c.want)
		}
	}
}

func TestMessages(t *testing.T) {
	ask := Ask{Version, "/usr/bin/gcc", []string{"-c", "", "x.c"}, "/w", []string{"LANG=C"}, 0o22, "mnt:[1] 2 3", true}
	answer := Answer{[]string{"-c"}, []string{"CL"}, true, []string{"a", "b"}, []byte("out"), []byte("err"), [][]string{{"-c", "x"}, {"y"}}, 3}
	report := Report{139, 1e18, []byte("out"), []byte{}, []string{"a.h"}}
	var gotAsk Ask
	var gotAnswer Answer
	var gotReport Report
	for _, c := range []struct {
		body      []byte
		decode    func([]byte) error
		got, want any
	}{
		{ask.Encode(), gotAsk.Decode, &gotAsk, &ask},
		{answer.Encode(), gotAnswer.Decode, &gotAnswer, &answer},
		{report.Encode(), gotReport.Decode, &gotReport, &report},
	} {
		if err := c.decode(c.body); err != nil || !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("got %+v, %v, want %+v", c.got, err, c.want)
		}
		for n := len(Version) + 1; n < len(c.body); n++ {
			if c.decode(c.body[:n]) == nil {
				t.Errorf("%T: the first %d of %d bytes were taken for a message", c.want, n, len(c.body))
			}
		}
	}
}

// TestOtherVersion: of another version's request only the version is read.
func TestOtherVersion(t *testing.T) {
	other := encoder{}
	other.string("77")
	var got Ask
	if err := got.Decode(append(other, 0xff, 0xff)); err != nil || got.Version != "77" {
		t.Errorf("got %q, %v, want 77", got.Version, err)
	}
}

func FuzzDecode(f *testing.F) {
	ask := Ask{Version: Version, Args: []string{"-c"}}
	f.Add(ask.Encode())
	f.Fuzz(func(t *testing.T, body []byte) {
		var a Ask
		if a.Decode(body) == nil && a.Version == Version {
			var again Ask
			if err := again.Decode(a.Encode()); err != nil || !reflect.DeepEqual(again, a) {
				t.Errorf("got %+v, %v, want %+v", again, err, a)
			}
		}
		new(Answer).Decode(body)
		new(Report).Decode(body)
	})
}

func TestSplitHeaders(t *testing.T) {
	for _, c := range []struct{ stderr, rest, headers string }{
		{"", "", ""},
		{". a.h\n.. /usr/b.h\nx.c:1: warning: w\n", "x.c:1: warning: w\n", "a.h /usr/b.h"},
		{". a.h\nwarning\nEs fehlt was:\na.h\n", "warning\n", "a.h"},
		{"! a.h.gch\n x.c\n", " x.c\n", "a.h.gch"},
		{"...\n.\nno newline", "...\n.\nno newline", ""},
	} {
		rest, headers := splitHeaders([]byte(c.stderr))
		if string(rest) != c.rest || strings.Join(headers, " ") != c.headers {
			t.Errorf("%q: got %q and %q, want %q and %q", c.stderr, rest, headers, c.rest, c.headers)
		}
	}
}

func TestFrame(t *testing.T) {
	got := Frame(Busy, []byte("xy"))
	if want := []byte{3, 0, 0, 0, 'b', 'x', 'y'}; !bytes.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
