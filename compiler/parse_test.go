package compiler

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/sarsen-build/sarsen/digest"
)

func TestParseRule(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"x.o: x.c a.h \\\n /usr/b.h\n", "x.c|a.h|/usr/b.h"},
		{"x.o y.o: x.c\n\na.h:\n", "x.c"},
		{"x.o: a\\ b.h c$$d.h e\\#f.h\n", "a b.h|c$d.h|e#f.h"},
		{"C:/x.o: x.c x.c\r\n", "x.c"},
		{"x.o:", ""},
		{"x.o", "malformed"},
	} {
		names, err := parseRule([]byte(c.text))
		got := strings.Join(names, "|")
		if err != nil {
			got = "malformed"
		}
		if got != c.want {
			t.Errorf("%q: got %q, want %q", c.text, got, c.want)
		}
	}
}

func FuzzParseRule(f *testing.F) {
	f.Add([]byte("x.o: x.c a\\ b.h \\\n c.h\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		names, err := parseRule(text)
		if err == nil && len(names) > len(text) {
			t.Errorf("%d names in %d bytes", len(names), len(text))
		}
		lineMarkers(text)
		directives(new(content), text)
		parseSearch(text)
	})
}

func TestLineMarkers(t *testing.T) {
	got := lineMarkers([]byte("# 0 \"x.c\"\n# 1 \"<built-in>\"\n# 1 \"/w//\"\nint x;\n# 1 \"a\\\"b.h\" 1 3 4\n#line 2 \"c.h\"\n# no\n"))
	if want := []string{"x.c", "a\"b.h", "c.h"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestDirectives(t *testing.T) {
	var c content
	directives(&c, []byte("#include \"a.h\"\n # \tinclude <b.h>\n#if __has_include(\"c.h\") || __has_include( <d.h> )\n#include MACRO\n#include \"\"\ninclude \"e.h\"\n"))
	got := fmt.Sprint(c.quoted, c.angled, c.probed)
	if want := "[a.h] [b.h] [c.h d.h]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestTraits(t *testing.T) {
	for text, want := range map[string]trait{
		"int x;":                     0,
		"s = __TIME__":               hasTime,
		"s = __DATE__;":              hasDate,
		"s = __TIMESTAMP__":          hasTimestamp,
		"asm(\".incbin \\\"x\\\"\")": hasIncbin,
		"#  embed \"x\"":             hasHidden,
		"void embedded(void);":       0,
		"#if __has_embed(\"x\")":     hasHidden,
	} {
		if got := traitsOf([]byte(text)); got != want {
			t.Errorf("%s: got %b, want %b", text, got, want)
		}
	}
}

func someManifest() *manifest {
	sum := func(s string) digest.Digest { return digest.SHA256.Of([]byte(s)) }
	return &manifest{results: []*result{
		{
			Files:  []included{{"a.h", sum("a")}, {"/usr/b.h", sum("b")}},
			Absent: []gap{{"dir", []string{"a.h", "b.h"}}, {Dir: "none"}},
			Date:   "2026-01-02", Entry: sum("entry"),
		},
		{Files: []included{{"a.h", sum("c")}}, Entry: sum("other")},
	}}
}

func TestManifest(t *testing.T) {
	m := someManifest()
	b := m.encode()
	got, err := decodeManifest(b)
	if err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("got %+v, %v, want %+v", got, err, m)
	}
	for n := range b {
		if _, err := decodeManifest(b[:n]); err == nil {
			t.Errorf("the first %d of %d bytes were taken for a manifest", n, len(b))
		}
	}
}

func FuzzManifest(f *testing.F) {
	f.Add(someManifest().encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeManifest(b)
		if err != nil {
			return
		}
		again, err := decodeManifest(m.encode())
		if err != nil || !bytes.Equal(again.encode(), m.encode()) {
			t.Errorf("%v: a manifest does not survive being written", err)
		}
	})
}

// TestManifestBounds: a manifest stays small however often its headers change, and keeps the newest.
func TestManifestBounds(t *testing.T) {
	m := &manifest{}
	for i := range 3 * maxResults {
		m = m.add(&result{Entry: digest.SHA256.Of([]byte{byte(i), byte(i >> 8)})})
	}
	if len(m.results) != maxResults || m.results[0].Entry != digest.SHA256.Of([]byte{43, 1}) {
		t.Errorf("got %d results, want %d with the newest first", len(m.results), maxResults)
	}
	other := &manifest{results: []*result{{Entry: digest.SHA256.Of([]byte("far"))}, m.results[5]}}
	merged := m.merge(other)
	if len(merged.results) != maxResults || merged.results[0] != m.results[0] {
		t.Errorf("merging gave %d results, want %d beginning with those that were here", len(merged.results), maxResults)
	}
}

func TestParseSearch(t *testing.T) {
	s := parseSearch([]byte("ignoring nonexistent directory \"/none\"\n#include \"...\" search starts here:\n q\n#include <...> search starts here:\n a\n /usr/include\nEnd of search list.\n other\n"))
	got := fmt.Sprint(s.quote, s.dirs, s.missing)
	if want := "[q] [a /usr/include] [/none]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestCounters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "statistics")
	for round := range 2 {
		c, err := OpenCounters(path)
		if err != nil {
			t.Fatal(err)
		}
		var work sync.WaitGroup
		for range 4 {
			work.Go(func() {
				for i := range 1000 {
					c.Add(fmt.Sprintf("n.%d", i%10), 1)
				}
			})
		}
		work.Wait()
		got, err := ReadCounters(path) // as another process sees them
		if want := uint64(400 * (round + 1)); err != nil || got["n.3"] != want || len(got) != 10 {
			t.Errorf("got %v, %v, want ten counters of %d", got, err, want)
		}
		c.Close()
	}
	if err := os.WriteFile(path, []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := OpenCounters(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.All(); len(got) != 0 {
		t.Errorf("got %v of a file that is no statistics, want none", got)
	}
}

func TestDifference(t *testing.T) {
	got := difference([]field{{"argument", "-O1"}, {"source", "a"}}, []field{{"source", "a"}, {"argument", "-O2"}})
	if want := []string{"without argument -O1", "with argument -O2"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
