package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// A log is a bounded file that gets what a command writes into a pipe. The command never holds the file, so it
// can neither cut it nor grow it beyond the bound. Most commands write nothing, so the file is made when there is
// something to keep.
type log struct {
	child int // the command's end of the pipe; -1 once closed
	pipe  *os.File
	name  string
	file  *os.File // nil until then
	max   int64

	done  chan struct{}
	total int64 // written by the command
	err   error // of the file
}

// logs are those of standard output, nil where that is a pipe, and of standard error.
type logs [2]*log

// drain is how long a pipe is read after the last process of the action died. Somebody else may hold its other end.
const drain = time.Second

var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

func openLogs(s *Spec, piped bool) (*logs, error) {
	var l logs
	for i, name := range []string{s.Stdout, s.Stderr} {
		if i == 0 && piped {
			continue
		}
		var err error
		if l[i], err = openLog(name, s.MaxLog); err != nil {
			l.close()
			return nil, err
		}
	}
	return &l, nil
}

func openLog(name string, max int64) (*log, error) {
	read, write, err := pipe()
	if err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	return &log{child: write, pipe: os.NewFile(uintptr(read), name), name: name, max: max, done: make(chan struct{})}, nil
}

// start closes the command's ends, which it has by now, and begins to read.
func (l *logs) start() {
	for _, g := range l {
		if g == nil {
			continue
		}
		_ = syscall.Close(g.child)
		g.child = -1
		go g.copy()
	}
}

// finish waits until all is read, appends the message to standard error, and returns how much the command wrote.
// An error says that not all of it was kept, for another reason than the bound.
func (l *logs) finish(message string) (stdout, stderr int64, err error) {
	for _, g := range l {
		if g == nil {
			continue
		}
		// Without a deadline a process that is none of ours but holds the pipe would keep us here.
		_ = g.pipe.SetReadDeadline(time.Now().Add(drain))
		<-g.done
	}
	if message != "" {
		l[1].write(fmt.Appendf(nil, "sarsen: %s\n", message))
	}
	if l[0] == nil {
		return 0, l[1].total, l[1].err
	}
	return l[0].total, l[1].total, errors.Join(l[0].err, l[1].err)
}

func (l *logs) close() {
	for _, g := range l {
		if g == nil {
			continue
		}
		if g.child >= 0 {
			_ = syscall.Close(g.child)
		}
		_ = g.pipe.Close()
		if g.file != nil {
			_ = g.file.Close()
		}
	}
}

// copy reads to the end, whatever the file says: a command must not stop since a disk is full or it wrote too much.
func (l *log) copy() {
	defer close(l.done)
	b := buffers.Get().(*[]byte)
	defer buffers.Put(b)
	for {
		n, err := l.pipe.Read(*b)
		if n > 0 {
			l.keep((*b)[:n])
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrDeadlineExceeded) && l.err == nil {
				l.err = err
			}
			return
		}
	}
}

// keep writes what is within the bound, and one line where that ends.
func (l *log) keep(b []byte) {
	room := l.max - l.total
	l.total += int64(len(b))
	if room < 0 || l.err != nil {
		return
	}
	if int64(len(b)) > room {
		b = fmt.Appendf(nil, "%s\nsarsen: output cut here, after %d bytes\n", b[:room], l.max)
	}
	l.write(b)
}

func (l *log) write(b []byte) {
	if l.file == nil {
		if l.file, l.err = os.OpenFile(l.name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644); l.err != nil {
			return
		}
	}
	_, l.err = l.file.Write(b)
}
