package execution

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
)

func TestList(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		var want []string
		for n := range 25 {
			want = append(want, r.execute(r.action(fmt.Sprint(n), nil)).Name())
		}
		other := r.action("other", nil)
		other.Instance = "other"
		r.execute(other)
		main := func(k action.Key) bool { return k.Instance == "main" }
		var got []string
		for token, page := "", 0; page == 0 || token != ""; page++ {
			ops, next, err := r.s.List("operations/", main, 10, token)
			if err != nil {
				t.Fatal(err)
			}
			for _, op := range ops {
				got = append(got, op.Name)
			}
			token = next
			r.execute(r.action(fmt.Sprint("new ", page), nil, "x=y"), func(q *Request) { q.Key.Instance = "other" })
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if k, err := r.s.Key(want[0]); err != nil || k.Instance != "main" {
			t.Errorf("Key = %v, %v", k, err)
		}
		if ops, _, _ := r.s.List("nothing/", nil, 0, ""); len(ops) != 0 {
			t.Errorf("with another prefix: got %v", ops)
		}
		if ops, _, _ := r.s.List(want[3], nil, 0, ""); len(ops) != 1 || ops[0].Name != want[3] {
			t.Errorf("with a whole name: got %v", ops)
		}
	})
}

// TestKept sees how long finished operations can be asked for.
func TestKept(t *testing.T) {
	bubble(t, func(o *Options) { o.MaxDone = 3 }, func(t *testing.T, r *rig) {
		h := r.worker("w", 1)
		k := r.action("a", nil)
		w := r.execute(k)
		h.succeed(h.assigned())
		r.end(w)
		var names []string
		for range 4 {
			names = append(names, r.execute(k).Name())
			h.keep(time.Minute)
		}
		for n, name := range names {
			if _, err := r.s.Get(name); errors.Is(err, ErrNotFound) != (n == 0) {
				t.Errorf("of four, and three are kept: number %d: %v", n, err)
			}
		}
		h.keep(2 * time.Minute)
		for n, name := range names {
			if _, err := r.s.Get(name); errors.Is(err, ErrNotFound) != (n < 2) {
				t.Errorf("five minutes after the second: number %d: %v", n, err)
			}
		}
		h.keep(3 * time.Minute)
		if n := r.s.Stats().Operations; n != 0 {
			t.Errorf("%d operations are kept for ever", n)
		}
	})
}

func TestLog(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		h := r.worker("w", 1)
		w := r.execute(r.action("a", nil), func(q *Request) { q.StreamLogs = true })
		i := h.assigned()
		meta := r.now(w).meta
		out, err := r.s.OpenLog(meta.StdoutStreamName)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"", "logstreams/", meta.StdoutStreamName + "x", "operations/x/stdout"} {
			if _, err := r.s.OpenLog(name); !errors.Is(err, blob.ErrNotFound) {
				t.Errorf("OpenLog(%q) = %v, want ErrNotFound", name, err)
			}
		}
		go func() {
			for _, text := range []string{"one ", "two ", "three"} {
				time.Sleep(time.Second)
				h.Log(i.ID, Stdout, []byte(text))
				h.Log(i.ID, Stderr, []byte(strings.ToUpper(text)))
			}
			time.Sleep(time.Second)
			h.Complete(i.ID, &repb.ExecuteResponse{Result: &repb.ActionResult{}})
			h.Log(i.ID, Stdout, []byte("late"))
		}()
		if got := readLog(t, out, 3); got != "one two three" {
			t.Errorf("stdout: got %q", got)
		}
		r.end(w)
		errs, err := r.s.OpenLog(meta.StderrStreamName)
		if err != nil {
			t.Fatal(err)
		}
		errs.From(4)
		if got := readLog(t, errs, 100); got != "TWO THREE" {
			t.Errorf("stderr from the fourth byte: got %q", got)
		}
	})
}

func readLog(t *testing.T, l *LogReader, most int) string {
	var all []byte
	for {
		data, offset, err := l.Next(context.Background(), most)
		if err == io.EOF {
			return string(all)
		}
		if err != nil || len(data) > most || l.at != offset+int64(len(data)) {
			t.Fatalf("Next = %q at %d, %v", data, offset, err)
		}
		all = append(all, data...)
	}
}

// TestLogBounded writes much more than is kept, to a stream that nobody reads meanwhile.
func TestLogBounded(t *testing.T) {
	var b logBuffer
	reader := &LogReader{b: &b}
	line := []byte(strings.Repeat("x", 99) + "\n")
	for n := range 50_000 {
		copy(line, fmt.Sprintf("%08d", n))
		b.write(line)
	}
	if len(b.data) > maxStream || cap(b.data) > maxStream || len(b.data) < maxStream/2-100 {
		t.Errorf("%d bytes are kept in %d, want up to %d", len(b.data), cap(b.data), maxStream)
	}
	data, offset, err := reader.Next(t.Context(), 100)
	want := []byte(fmt.Sprintf("%08d", offset/100) + strings.Repeat("x", 91) + "\n" + fmt.Sprintf("%08d", offset/100+1) + strings.Repeat("x", 92))[offset%100:][:100]
	if err != nil || offset == 0 || !bytes.Equal(data, want) {
		t.Errorf("Next = %q at %d, %v, want %q", data, offset, err, want)
	}
	b.write(make([]byte, 3*maxStream))
	if len(b.data) != maxStream || b.offset+int64(len(b.data)) != 50_000*100+3*maxStream {
		t.Errorf("after a long write %d bytes are kept from %d", len(b.data), b.offset)
	}
}

// TestOldLogsBounded ends many actions with long logs.
func TestOldLogsBounded(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		h := r.worker("w", 1)
		long := make([]byte, maxStream)
		var first *LogReader
		for n := range maxOld/maxStream + 1 {
			w := r.execute(r.action(fmt.Sprint(n), nil))
			i := h.assigned()
			h.Log(i.ID, Stdout, long)
			h.succeed(i)
			r.end(w)
			if n == 0 {
				var err error
				if first, err = r.s.OpenLog(logName(w.Name(), Stdout)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, offset, err := first.Next(r.Context(), 1); err != io.EOF || offset != maxStream {
			t.Errorf("the oldest log is kept: %d, %v", offset, err)
		}
		if r.s.oldLogs.total > maxOld {
			t.Errorf("%d bytes of logs are kept, at most %d", r.s.oldLogs.total, maxOld)
		}
	})
}
