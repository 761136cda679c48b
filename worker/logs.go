package worker

import (
	"bytes"
	"context"
	"io"
	"os"
	"time"

	pb "github.com/sarsen-build/sarsen/internal/workerpb"
)

// How often what a command prints is looked at while it runs, and how much is said at once, in bytes.
const (
	logTick  = 200 * time.Millisecond
	logChunk = 64 << 10
)

// follow tells the scheduler what the command prints, until ctx ends, and then the rest. What can't be said yet is
// said later, so that nothing is missing in the middle; what can't be said at the end comes with the result.
func (r *run) follow(ctx context.Context) {
	tick := time.NewTicker(logTick)
	defer tick.Stop()
	var stdout, stderr tail
	defer stdout.close()
	defer stderr.close()
	for over, looked := false, false; !over; {
		select {
		case <-tick.C:
			looked = true
		case <-ctx.Done():
			if over = true; !looked {
				return // it was so quick that all comes with the result
			}
		}
		r.sayLog(&stdout, "stdout", false)
		r.sayLog(&stderr, "stderr", true)
	}
}

func (r *run) sayLog(t *tail, name string, isStderr bool) {
	for data := t.next(r.log(name)); len(data) > 0; data = t.next(r.log(name)) {
		if !r.worker.say(&pb.FromWorker{Message: &pb.FromWorker_Log{Log: &pb.LogChunk{Id: r.task.Id, Stderr: isStderr, Data: data}}}) {
			return
		}
		t.at += int64(len(data))
	}
}

// A tail reads a file that grows.
type tail struct {
	file *os.File
	at   int64
	buf  []byte
}

// next returns what comes at t.at, as far as there is any.
func (t *tail) next(name string) []byte {
	if t.file == nil {
		t.file, _ = os.Open(name) // it may not be there yet
		if t.file == nil {
			return nil
		}
	}
	if t.buf == nil {
		t.buf = make([]byte, logChunk)
	}
	n, err := t.file.ReadAt(t.buf, t.at)
	if err != nil && err != io.EOF {
		return nil
	}
	return bytes.Clone(t.buf[:n]) // it is sent later
}

func (t *tail) close() {
	if t.file != nil {
		_ = t.file.Close()
	}
}
