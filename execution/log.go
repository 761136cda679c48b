package execution

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
)

// A Stream is one of the two outputs of a command.
type Stream int

// The streams.
const (
	Stdout Stream = iota
	Stderr
)

func (st Stream) String() string { return [...]string{"stdout", "stderr"}[st] }

// How much is kept: of one stream while the action runs, and of all actions that have ended.
const (
	maxStream = 1 << 20
	maxOld    = 64 << 20
)

// logs is what an action has written so far, as far as its worker sends it. A retried action's tries follow each
// other.
type logs [2]logBuffer

// A logBuffer is the end of a stream. Its lock is its own, and the last to be taken.
type logBuffer struct {
	mu     sync.Mutex
	data   []byte
	offset int64 // of data, in all that was written
	ended  bool
	more   chan struct{} // closed at the next change; nil if nobody waits
}

func (b *logBuffer) change(do func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	do()
	if b.more != nil {
		close(b.more)
		b.more = nil
	}
}

func (b *logBuffer) write(p []byte) {
	b.change(func() {
		if b.ended {
			return
		}
		// Half is let go at a time, so that not every write moves all.
		if over := len(b.data) + len(p) - maxStream; over > 0 {
			n := min(max(over, maxStream/2), len(b.data))
			b.offset += int64(n)
			b.data = append(make([]byte, 0, maxStream), b.data[n:]...)
			if skip := len(p) - maxStream; skip > 0 {
				b.offset += int64(skip)
				p = p[skip:]
			}
		}
		b.data = append(b.data, p...)
	})
}

func (l *logs) end() {
	for i := range l {
		l[i].change(func() { l[i].ended = true })
	}
}

func (l *logs) size() (n int) {
	for i := range l {
		l[i].mu.Lock()
		n += len(l[i].data)
		l[i].mu.Unlock()
	}
	return n
}

// oldLogs are the tasks that have ended and whose logs can still be opened.
type oldLogs struct {
	tasks []*task
	sizes []int
	total int
}

// keepLogs keeps the logs of a task that has ended for those who open them late, instead of older ones.
func (s *Scheduler) keepLogs(t *task) {
	n := t.logs.size()
	if n == 0 {
		return
	}
	old := &s.oldLogs
	old.tasks, old.sizes, old.total = append(old.tasks, t), append(old.sizes, n), old.total+n
	for old.total > maxOld {
		first := &old.tasks[0].logs
		for i := range first {
			first[i].change(func() { first[i].offset += int64(len(first[i].data)); first[i].data = nil })
		}
		old.tasks[0] = nil
		old.total -= old.sizes[0]
		old.tasks, old.sizes = old.tasks[1:], old.sizes[1:]
	}
}

// Log takes what an assignment has written to a stream.
func (x *Session) Log(id string, stream Stream, p []byte) {
	var t *task
	x.live(func(w *worker) {
		if a := w.assignments[id]; a != nil && a.task.on == a {
			t = a.task
		}
	})
	if t != nil && (stream == Stdout || stream == Stderr) {
		t.logs[stream].write(p)
	}
}

// logName returns the name of a stream of an operation.
func logName(operation string, st Stream) string {
	return "logstreams/" + strings.TrimPrefix(operation, "operations/") + "/" + st.String()
}

// OpenLog returns a reader of a stream that an operation's metadata names, from its beginning.
func (s *Scheduler) OpenLog(name string) (*LogReader, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rest, ok := strings.CutPrefix(name, "logstreams/")
	id, stream, _ := strings.Cut(rest, "/")
	o := s.operations["operations/"+id]
	for _, st := range []Stream{Stdout, Stderr} {
		if ok && o != nil && stream == st.String() {
			return &LogReader{b: &o.task.logs[st]}, nil
		}
	}
	return nil, fmt.Errorf("%w: log %q", ErrNotFound, name)
}

// A LogReader reads a stream while it is written. It needs no Close.
type LogReader struct {
	b  *logBuffer
	at int64
}

// From makes offset the next byte to be read, counted from the stream's beginning.
func (r *LogReader) From(offset int64) { r.at = offset }

// Next waits for more and returns up to max bytes of it, and where in the stream they lie: behind where the last
// ended if the reader was so slow that what was there is gone. At the end of the action comes io.EOF.
func (r *LogReader) Next(ctx context.Context, max int) (data []byte, offset int64, err error) {
	for {
		data, more, ended := r.read(max)
		if len(data) > 0 {
			r.at += int64(len(data))
			return data, r.at - int64(len(data)), nil
		}
		if ended {
			return nil, r.at, io.EOF
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, r.at, ctx.Err()
		}
	}
}

func (r *LogReader) read(most int) (data []byte, more chan struct{}, ended bool) {
	b := r.b
	b.mu.Lock()
	defer b.mu.Unlock()
	r.at = max(r.at, b.offset)
	if from := r.at - b.offset; from < int64(len(b.data)) {
		rest := b.data[from:]
		return append([]byte(nil), rest[:min(len(rest), most)]...), nil, false
	}
	if b.more == nil {
		b.more = make(chan struct{})
	}
	return nil, b.more, b.ended
}
