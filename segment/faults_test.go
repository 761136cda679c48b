package segment

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// tight is small with six segments.
var tight = Options{MaxSize: 6 * small.segmentSize, Lease: small.Lease, segmentSize: small.segmentSize, smallSize: small.smallSize, tick: -1}

// faults are the errors of which each operation gets each once.
var faults = []struct {
	name string
	err  error
	op   string // the only operation that can fail so, if there is one
}{
	{"EIO", syscall.EIO, ""},
	{"ENOSPC", syscall.ENOSPC, ""},
	{"EDQUOT", syscall.EDQUOT, ""},
	{"EMFILE", syscall.EMFILE, ""},
	{"EINTR", syscall.EINTR, ""},
	{"short", vfs.ErrShort, "write"},
}

// allFaults says that the tests of every fault have minutes, not seconds.
func allFaults() bool { return os.Getenv("SARSEN_FAULTS") == "all" }

// TestEveryOperationFails fails each file operation of each scenario once with each error. The ring
// goes on and says no yes that isn't true; and whatever then ends the process, the next one finds what
// was promised. Without SARSEN_FAULTS=all there are only EIO and short writes.
func TestEveryOperationFails(t *testing.T) {
	var total atomic.Int64
	t.Cleanup(func() { t.Logf("%d failed operations", total.Load()) })
	only := number(t, "SARSEN_K", -1)
	for _, s := range scenarios {
		for _, f := range faults {
			if !allFaults() && f.name != "EIO" && f.name != "short" {
				continue
			}
			t.Run(s.name+"/"+f.name, func(t *testing.T) {
				t.Parallel()
				for k := max(only, 0); only < 0 || k == only; k++ {
					once := &vfs.FailOnce{K: k, Err: f.err, Op: f.op}
					synctest.Test(t, func(t *testing.T) {
						defer func() {
							if t.Failed() {
								t.Logf("%s failed, operation %d, with %s", once.At(), k, f.name)
								t.Logf("replay: SARSEN_FAULTS=all SARSEN_K=%d go test ./segment -run '^TestEveryOperationFails$/^%s$/^%s$'", k, s.name, f.name)
							}
						}()
						failOne(t, s, once)
					})
					if once.At() == "" || t.Failed() {
						break
					}
					total.Add(1)
				}
			})
		}
	}
}

func failOne(t *testing.T, s scenario, once *vfs.FailOnce) {
	c := &client{T: t, fsys: &vfs.Mem{Fault: once.Fault}, full: s.full, once: once}
	c.open()
	s.run(c)
	c.rest()
	for _, image := range []int{-1, once.K % 4} {
		if err := c.crash(image); err != nil {
			t.Errorf("after the end, image %d (-1 is a kill, 0 nothing, 1 all): %v", image, err)
		}
	}
	c.close()
	if err := c.told.stand(c.fsys.PowerCut(), c.lost() || !c.closed, false); err != nil {
		t.Errorf("after Close (clean: %v) and a power cut: %v", c.closed, err)
	}
}

// A client drives a ring, restarts it, and notes what it was told.
type client struct {
	*testing.T
	fsys    *vfs.Mem
	once    *vfs.FailOnce
	ring    *Ring
	full    bool // the ring may be full
	closed  bool // the last Close went well
	filled  int
	pinned  []pinned
	uploads []blob.Writer

	mu   sync.Mutex
	told told
}

// ok reports whether a step went well. It need not once an operation has failed, but then it says so:
// no failure of the disk makes the client's own bytes wrong.
func (c *client) ok(what string, err error) bool {
	c.Helper()
	wanting := errors.Is(err, blob.ErrFull) || errors.Is(err, blob.ErrAborted)
	wrong := errors.Is(err, blob.ErrMismatch) || errors.Is(err, blob.ErrInvalid) || errors.Is(err, blob.ErrTooLarge)
	if err != nil && (wrong || c.once.At() == "" && !(c.full && wanting)) {
		c.Errorf("%s = %v, and no operation failed", what, err)
	}
	return err == nil
}

// lost reports whether a sync failed. What it was for is lost by a kill too.
func (c *client) lost() bool { return strings.HasPrefix(c.once.At(), "sync ") }

// again makes a call once more if an operation failed in it. The second time none does.
func (c *client) again(call func() error) error {
	before := c.once.At()
	err := call()
	if err != nil && c.once.At() != before {
		err = call()
	}
	return err
}

// blob returns the blob of n bytes that n stands for, which is going to be sent.
func (c *client) blob(n int) (digest.Digest, []byte) {
	d, data := blobOf(n)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told.sent[d] = true
	return d, data
}

// said notes a yes, and sees that it is true.
func (c *client) said(d digest.Digest) {
	c.Helper()
	c.mu.Lock()
	c.told.yes[d] = time.Now().Add(tight.Lease)
	c.mu.Unlock()
	if err := c.again(func() error { return same(c.ring, d) }); err != nil {
		c.Errorf("right after a yes: %v", err)
	}
}

// trying notes that a result is going to be put, and returns what it names.
func (c *client) trying(key byte) (v byte, named []digest.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.told.results[key]
	r.tried++
	c.told.results[key] = r
	for d, until := range c.told.yes {
		if time.Now().Before(until) {
			named = append(named, d)
		}
	}
	return r.tried, named
}

// acknowledged notes that a result was taken, and sees that it is there.
func (c *client) acknowledged(key, v byte, named []digest.Digest) {
	c.mu.Lock()
	r := version{acknowledged: v, tried: v, until: time.Now().Add(tight.Lease)}
	c.told.results[key] = r
	for _, d := range named {
		c.told.durable[d] = true
	}
	c.mu.Unlock()
	if err := c.again(func() error { return r.check(c.ring, key) }); err != nil {
		c.Errorf("right after Put: %v", err)
	}
}

func (c *client) dropping(key byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.told.results[key]
	r.dropped = true
	c.told.results[key] = r
}

func (c *client) toldNow() told {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.told.clone()
}

// leasesEnd lets all leases run out, after a last look at what they hold.
func (c *client) leasesEnd() {
	if c.fsys.Before != nil {
		c.fsys.Before("leases", "end")
	}
	time.Sleep(2 * tight.Lease)
}

// open opens the ring. If an operation failed in that, the directory is free and the next try succeeds.
func (c *client) open() {
	if c.told.sent == nil {
		c.told = told{map[digest.Digest]time.Time{}, map[digest.Digest]bool{}, map[byte]version{}, map[digest.Digest]bool{}, map[string]rootTold{}}
	}
	err := c.again(func() (err error) {
		c.ring, err = Open(context.Background(), c.fsys, "ring", tight)
		return err
	})
	if err != nil {
		c.Fatalf("Open = %v after %q failed", err, c.once.At())
	}
	c.found()
}

// found reads what was promised from a ring that was just opened.
func (c *client) found() {
	c.Helper()
	told := c.toldNow()
	if c.lost() {
		told = told.without()
	}
	if err := c.again(func() error { return told.read(c.ring) }); err != nil {
		c.Errorf("after a restart: %v", err)
	}
	c.mu.Lock()
	c.told.yes = told.yes
	c.mu.Unlock()
}

// close closes the ring. When that went well and no sync failed before, no power cut takes anything.
func (c *client) close() {
	if c.closed = c.ok("Close", c.ring.Close()); !c.closed || c.lost() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for d := range c.told.yes {
		c.told.durable[d] = true
	}
}

// kill ends the process as it is, and starts the next one.
func (c *client) kill() { c.restart(c.fsys.Clone()) }

// powerCut does so with the machine.
func (c *client) powerCut() {
	c.mu.Lock()
	c.told = c.told.without()
	c.mu.Unlock()
	c.restart(c.fsys.PowerCut())
}

func (c *client) restart(left *vfs.Mem) {
	if c.fsys.Before != nil {
		c.fsys.Before("end", "of the process")
	}
	left.Before, left.Fault = c.fsys.Before, c.fsys.Fault
	synctest.Wait()
	c.fsys.SetBefore(nil)
	c.fsys.SetFault(nil)
	c.letGo()
	_ = c.ring.Close()
	c.fsys = left
	c.open()
}

// letGo ends all uploads and readers.
func (c *client) letGo() {
	for _, w := range c.uploads {
		_ = w.Close()
	}
	for _, p := range c.pinned {
		_ = p.rd.Close()
	}
	c.uploads, c.pinned = nil, nil
}

// rest ends what is open, sees that everything promised is there still, and that the ring leaks
// nothing.
func (c *client) rest() {
	for _, p := range c.pinned {
		data := make([]byte, p.rd.Size())
		_, want := blobOf(len(data))
		err := c.again(func() error { _, err := p.rd.ReadAt(data, 0); return err })
		if err != nil || string(data) != string(want) {
			c.Errorf("read of a pinned blob: %v", err)
		}
	}
	c.letGo()
	told := c.toldNow()
	if err := c.again(func() error { return told.read(c.ring) }); err != nil {
		c.Errorf("at the end: %v", err)
	}
	time.Sleep(time.Second) // the cleaner may be where images of a crash are taken, which sleep too
	if err := c.again(func() error { return atRest(c.ring, c.fsys) }); err != nil {
		c.Errorf("at the end: %v", err)
	}
}
