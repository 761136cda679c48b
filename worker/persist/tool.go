package persist

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sarsen-build/sarsen/worker/sandbox"
)

// maxStderr is how much a process may say on standard error in its life, in bytes. One that said so much is
// not used again.
const maxStderr = 4 << 20

// A tool is one process with its home.
type tool struct {
	key    [32]byte
	name   string
	dir    string
	runner *sandbox.Runner
	home   levels
	pipes  *sandbox.Pipes
	tap    *tap
	codec  codec
	timer  *time.Timer // of its being idle

	kill    context.CancelFunc // nil before the process begins
	ended   chan struct{}      // closed when nothing of it lives; then outcome and err are there
	outcome sandbox.Outcome
	err     error

	served int   // requests that were answered
	heard  int64 // bytes of standard error from before this request
	why    error // why it gets no more requests
}

func (t *tool) stderr() string { return filepath.Join(t.dir, "stderr") }

func (t *tool) makeHome(q *request) (err error) {
	root := filepath.Join(t.dir, "root")
	if t.home, err = makeLevels(root, q.way); err != nil {
		return err
	}
	return t.runner.Adopt(root)
}

// begin starts the process.
func (t *tool) begin(q *request) {
	ctx, cancel := context.WithCancel(context.Background())
	t.kill = cancel
	spec := q.spec
	spec.ID, spec.Root, spec.Args, spec.Timeout = t.name, filepath.Join(t.dir, "root"), q.startup, 0
	spec.Stdout, spec.Stderr, spec.MaxLog = "", t.stderr(), maxStderr
	spec.Owned, spec.Private, spec.Pipes = true, true, t.pipes
	go func() {
		defer close(t.ended)
		t.outcome, t.err = t.runner.Run(ctx, spec)
		if t.outcome.Root != nil {
			_ = t.outcome.Root.Close()
		}
	}()
}

// stop kills the process and returns when nothing of it lives. Then nobody but us has an end of its pipes.
func (t *tool) stop() {
	if t.kill != nil {
		t.kill()
		<-t.ended
	}
}

// finish ends a process whose response could not be read. Where its output ended it is ending by itself, and how
// it does is worth a moment.
func (t *tool) finish(err error) {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		select {
		case <-t.ended:
		case <-time.After(time.Second):
		}
	}
	t.stop()
}

// close ends the tool for good.
func (t *tool) close() {
	t.stop()
	if t.pipes != nil {
		t.pipes.Close()
	}
	t.home.close()
}

// diedAlone reports whether the tool is given up for what it did, and not because its request was cancelled or took too long.
func (t *tool) diedAlone() bool {
	return !errors.Is(t.why, context.Canceled) && !errors.Is(t.why, context.DeadlineExceeded)
}

// serve has the process answer q. If t.why is set afterwards, the process is gone or must go.
func (t *tool) serve(ctx context.Context, q *request) (sandbox.Outcome, error) {
	out := sandbox.Outcome{Start: time.Now()}
	err := t.moveIn(q)
	if err != nil {
		t.why = err
		return out, err
	}
	r, err := t.exchange(ctx, q)
	out.End = time.Now()
	if err != nil {
		t.why = err
		t.stop()
	}
	if moved := t.moveOut(q); moved != nil && t.why == nil {
		t.why, err = moved, moved
	}
	printed := r.Output
	switch {
	case ctx.Err() != nil:
		return out, context.Cause(ctx)
	case errors.Is(err, context.DeadlineExceeded):
		out.TimedOut, out.Killed, out.ExitCode = true, "timeout", 128+int(syscall.SIGKILL)
		printed = t.complaint()
	case err != nil:
		return out, err
	default:
		out.ExitCode = int(r.ExitCode)
	}
	if err := writeLog(q.spec, printed); err != nil {
		return out, err
	}
	out.Root, err = os.OpenRoot(q.spec.Root)
	return out, err
}

// moveIn brings what was staged for q into the home.
func (t *tool) moveIn(q *request) error {
	if err := t.home.open(); err != nil {
		return err
	}
	if err := t.home.clear(q.spec.Root + ".litter"); err != nil {
		return err
	}
	return q.staged.moveTo(t.home)
}

// moveOut brings what is there after q to where outputs are looked for.
func (t *tool) moveOut(q *request) error {
	if err := t.home.open(); err != nil {
		return err
	}
	return t.home.moveTo(q.staged)
}

// exchange sends q and reads the response. It returns context.DeadlineExceeded if that took longer than it may,
// and the context's error if that ended. Every error leaves the process unusable.
func (t *tool) exchange(ctx context.Context, q *request) (response, error) {
	waiting, cancel := ctx, context.CancelFunc(func() {})
	if q.spec.Timeout > 0 {
		waiting, cancel = context.WithTimeout(ctx, q.spec.Timeout)
	}
	defer cancel()
	if t.kill == nil {
		t.begin(q)
	}
	t.heard = t.errorsSize()
	t.tap.reset()
	stop := context.AfterFunc(waiting, t.kill)
	defer stop()
	sent := make(chan error, 1)
	go func() {
		_, err := t.pipes.In.Write(q.body)
		sent <- err
	}()
	r, err := t.codec.read()
	if err == nil {
		// Who answers has read the request. The pipe may not have told the goroutine yet.
		_ = t.pipes.In.SetWriteDeadline(time.Now().Add(time.Second))
		if e := <-sent; e != nil {
			err = errors.New("it answered before it had read its request")
		}
		_ = t.pipes.In.SetWriteDeadline(time.Time{})
	} else {
		t.finish(err)
		<-sent
	}
	if !stop() {
		err = waiting.Err() // it was killed
		<-t.ended
	}
	if err == nil {
		err = t.check(r)
	}
	if err != nil {
		return response{}, t.blame(waiting, q, err)
	}
	t.served++
	if said := t.codec.rest(); len(said) > 0 {
		t.why = fmt.Errorf("%w: after its response it said %q", ErrProtocol, said)
	} else if t.errorsSize() >= maxStderr {
		t.why = fmt.Errorf("it said more than %d bytes on standard error", maxStderr)
	}
	return r, nil
}

func (t *tool) check(r response) error {
	switch {
	case r.ID != 0:
		return fmt.Errorf("it answered request %d, and was asked request 0", r.ID)
	case r.WasCancelled:
		return errors.New("it says that a request was cancelled, and none was")
	}
	return nil
}

// blame stops the process and says what it did wrong.
func (t *tool) blame(waiting context.Context, q *request, err error) error {
	t.stop()
	if waiting.Err() != nil {
		return waiting.Err()
	}
	if errors.Is(t.err, sandbox.ErrRunnerDied) {
		return t.err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return t.obituary(q)
	}
	_, _ = io.CopyN(io.Discard, t.tap, maxSaid) // what it said until it was killed, for the quotation
	return fmt.Errorf("%w (%s): %w; its standard output began with %q%s", ErrProtocol, q.protocol, err, t.tap.said, t.quote())
}

// obituary says how the process ended. One that never answered anything and ended by itself most likely does not
// know what it was started with; another attempt would end in the same way.
func (t *tool) obituary(q *request) error {
	how := "closed its standard output"
	switch {
	case t.err != nil && !errors.Is(t.err, context.Canceled):
		return fmt.Errorf("%w: %w", ErrDied, t.err)
	case t.outcome.Killed == "memory":
		how = "was killed, for it took too much memory"
	case t.err == nil:
		how = fmt.Sprintf("ended with exit code %d", t.outcome.ExitCode)
	}
	if t.served == 0 && (t.err != nil || t.outcome.ExitCode < 128) {
		return fmt.Errorf("%w (%s): the tool %s %s before it answered a request, as one does that does not support --persistent_worker%s",
			ErrProtocol, q.protocol, q.spec.Args[0], how, t.quote())
	}
	return fmt.Errorf("%w: the tool %s %s in its request %d%s", ErrDied, q.spec.Args[0], how, t.served+1, t.quote())
}

// quote returns the end of what the process said during this request, as the end of a sentence.
func (t *tool) quote() string {
	text := strings.TrimSpace(t.complaint())
	if text == "" {
		return "; it said nothing on standard error"
	}
	if len(text) > maxSaid {
		text = "..." + text[len(text)-maxSaid:]
	}
	return "; on standard error it said: " + text
}

// complaint returns what the process said on standard error during this request. The process has ended.
func (t *tool) complaint() string {
	b, err := os.ReadFile(t.stderr())
	if err != nil || int64(len(b)) <= t.heard {
		return ""
	}
	return strings.ToValidUTF8(string(b[t.heard:]), "?")
}

func (t *tool) errorsSize() int64 {
	info, err := os.Stat(t.stderr())
	if err != nil {
		return 0
	}
	return info.Size()
}

// quiet reports, as nil, that an idle process lives and said nothing since its last response.
func (t *tool) quiet() error {
	raw, err := t.pipes.Out.SyscallConn()
	if err != nil {
		return err
	}
	var b [256]byte
	var n int
	var e error
	if err := raw.Read(func(fd uintptr) bool {
		n, e = syscall.Read(int(fd), b[:])
		return true // whatever there is
	}); err != nil {
		return err
	}
	switch {
	case e == syscall.EAGAIN || e == nil && n > 0 && len(bytes.TrimSpace(b[:n])) == 0 && t.isJSON():
		return nil
	case e != nil:
		return e
	case n == 0:
		return fmt.Errorf("%w while idle", ErrDied)
	}
	return fmt.Errorf("%w: without a request it said %q", ErrProtocol, b[:n])
}

// isJSON reports whether white space between messages means nothing.
func (t *tool) isJSON() bool {
	_, ok := t.codec.(*jsonCodec)
	return ok
}

// writeLog makes the file that the command would have made.
func writeLog(s sandbox.Spec, printed string) error {
	if printed == "" {
		return nil
	}
	return os.WriteFile(s.Stderr, []byte(printed), 0o644)
}
