package bucket

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Finding is what Check found out about one thing that a store relies on.
type Finding struct {
	What string // in words
	// Must says that nothing is safe without it.
	Must bool
	Err  error // nil if it is so
}

// racers is how many Puts on one condition Check makes at once.
const racers = 16

// Check finds out whether a bucket does what a store relies on. It writes some small objects below prefix, and one of
// MinPart+1 bytes, and removes them. It returns an error if it could not find out.
func Check(ctx context.Context, b Bucket, prefix string) ([]Finding, error) {
	var unique [8]byte
	_, _ = rand.Read(unique[:]) // never fails
	c := &checker{Bucket: b, prefix: prefix + hex.EncodeToString(unique[:]) + "/"}
	began := time.Now()
	if _, err := c.put(ctx, "first", "1", Condition{}); err != nil {
		return nil, err
	}
	page, err := b.List(ctx, c.prefix, "")
	if err != nil {
		return nil, err
	}
	var found []Finding
	note := func(what string, must bool, err error) { found = append(found, Finding{what, must, err}) }
	note("an object is listed right after it was written", true, c.listed(ctx))
	note("an object that was written again is read as it was written last", true, c.overwritten(ctx))
	note("If-None-Match: of writes that race, one creates the object", true, c.race(ctx, "create", Condition{Absent: true}))
	note("If-Match: of writes that race, one replaces the object", true, c.replace(ctx))
	note("If-Match refuses when the object is gone", true, c.matchGone(ctx))
	note("parts of an object can be read", true, c.ranges(ctx))
	note("a large object is written in parts, and read whole", true, c.large(ctx))
	note("requests that are too old are refused", true, c.old(ctx))
	note("a thousand objects are deleted at once, and not listed any more", true, c.deleted(ctx))
	note("bytes that were damaged on the way are refused", false, c.damaged(ctx))
	note("uploads that nobody ended can be found", false, c.unended(ctx))
	note("the server says what time it is, and when an object was written", true, dated(page))
	note("the server's clock and this machine's agree within a minute", false, clocks(page.Date, began))
	_, err = b.Delete(context.WithoutCancel(ctx), c.keys()...)
	return found, err
}

type checker struct {
	Bucket
	prefix string

	mu   sync.Mutex
	made map[string]bool
}

func (c *checker) keys() (keys []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.made {
		keys = append(keys, key)
	}
	return keys
}

// mine has an object removed in the end.
func (c *checker) mine(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made == nil {
		c.made = map[string]bool{}
	}
	c.made[c.prefix+name] = true
}

func (c *checker) put(ctx context.Context, name, value string, when Condition) (Object, error) {
	c.mine(name)
	return c.Put(ctx, c.prefix+name, bytes.NewReader([]byte(value)), int64(len(value)), when)
}

func (c *checker) listed(ctx context.Context) error {
	for i := range 20 {
		name := fmt.Sprintf("list/%02d", i)
		if _, err := c.put(ctx, name, "x", Condition{}); err != nil {
			return err
		}
		p, err := c.List(ctx, c.prefix+"list/", "")
		if err != nil {
			return err
		}
		if len(p.Objects) != i+1 {
			return fmt.Errorf("%d objects were written, %d are listed", i+1, len(p.Objects))
		}
	}
	return nil
}

func (c *checker) overwritten(ctx context.Context) error {
	for i := range 10 {
		want := fmt.Sprint(i)
		if _, err := c.put(ctx, "again", want, Condition{}); err != nil {
			return err
		}
		if err := c.holds(ctx, "again", want); err != nil {
			return err
		}
	}
	return nil
}

// holds wants an object to have these bytes.
func (c *checker) holds(ctx context.Context, name, want string) error {
	got, _, err := c.Get(ctx, c.prefix+name, 0, -1)
	if err != nil {
		return err
	}
	if string(got) != want {
		return fmt.Errorf("%q was to be written, and %q is there", want, got)
	}
	return nil
}

// race makes Puts at once, of which one may succeed.
func (c *checker) race(ctx context.Context, name string, when Condition) error {
	errs := make([]error, racers)
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() { _, errs[i] = c.put(ctx, name, fmt.Sprint("racer ", i), when) })
	}
	group.Wait()
	won := 0
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, ErrCondition) && !errors.Is(err, ErrBusy):
			return err
		}
	}
	if won != 1 {
		return fmt.Errorf("%d of %d writes succeeded", won, racers)
	}
	return nil
}

func (c *checker) replace(ctx context.Context) error {
	o, err := c.put(ctx, "replace", "old", Condition{})
	if err != nil {
		return err
	}
	return c.race(ctx, "replace", Condition{ETag: o.ETag})
}

func (c *checker) matchGone(ctx context.Context) error {
	o, err := c.put(ctx, "gone", "old", Condition{})
	if err != nil {
		return err
	}
	if _, err := c.Delete(ctx, c.prefix+"gone"); err != nil {
		return err
	}
	_, err = c.put(ctx, "gone", "new", Condition{ETag: o.ETag})
	switch {
	case err == nil:
		return errors.New("it was carried out")
	case !errors.Is(err, ErrCondition):
		return err
	}
	return nil
}

func (c *checker) ranges(ctx context.Context) error {
	if _, err := c.put(ctx, "range", "0123456789", Condition{}); err != nil {
		return err
	}
	got, o, err := c.Get(ctx, c.prefix+"range", 3, 4)
	if err != nil {
		return err
	}
	if string(got) != "3456" || o.Size != 10 {
		return fmt.Errorf("got %q of %d bytes, want \"3456\" of 10", got, o.Size)
	}
	return nil
}

// large writes what has two parts, if parts are no larger than they may be at least.
func (c *checker) large(ctx context.Context) error {
	want := strings.Repeat("0123456789abcdef", MinPart/16) + "."
	if _, err := c.put(ctx, "large", want, Condition{}); err != nil {
		return err
	}
	got, _, err := c.Get(ctx, c.prefix+"large", 0, -1)
	if err != nil {
		return err
	}
	if string(got) != want {
		return fmt.Errorf("%d bytes were written, and %d bytes that are not the same read", len(want), len(got))
	}
	return nil
}

// unended asks for uploads, and ends none.
func (c *checker) unended(ctx context.Context) error {
	_, err := c.Sweep(ctx, c.prefix, time.Time{})
	return err
}

func (c *checker) old(ctx context.Context) error {
	_, err := c.put(WithIssued(ctx, time.Now().Add(-MaxAge-time.Second)), "late", "x", Condition{})
	if err == nil {
		return errors.New("it was carried out")
	}
	if errors.Is(err, ErrUnknown) || errors.Is(err, ErrBusy) {
		return err
	}
	return nil
}

// A changing body is read as it should be once, which is when its checksum is made, and as something else from then on.
type changing struct{ reads atomic.Int64 }

const asIntended, asSent = "intended", "on a way"

// ReadAt implements io.ReaderAt.
func (b *changing) ReadAt(p []byte, at int64) (int, error) {
	text := asIntended
	if at == 0 && b.reads.Add(1) > 1 || at > 0 && b.reads.Load() > 1 {
		text = asSent
	}
	return strings.NewReader(text).ReadAt(p, at)
}

func (c *checker) damaged(ctx context.Context) error {
	c.mine("damaged")
	_, err := c.Put(ctx, c.prefix+"damaged", new(changing), int64(len(asIntended)), Condition{})
	if errors.Is(err, ErrDamaged) {
		return nil
	}
	if err != nil {
		return err
	}
	// Where bytes have no way, they were read once.
	return c.holds(ctx, "damaged", asIntended)
}

func (c *checker) deleted(ctx context.Context) error {
	names := []string{c.prefix + "list/00", c.prefix + "list/01"}
	for len(names) < MaxDelete {
		names = append(names, fmt.Sprintf("%slist/none%d", c.prefix, len(names)))
	}
	left, err := c.Delete(ctx, names...)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("%v are left", left)
	}
	p, err := c.List(ctx, c.prefix+"list/", "")
	if err != nil {
		return err
	}
	if len(p.Objects) != 18 {
		return fmt.Errorf("%d objects are listed, 18 should be", len(p.Objects))
	}
	return nil
}

func dated(p Page) error {
	if p.Date.IsZero() {
		return errors.New("its answers have no Date")
	}
	for _, o := range p.Objects {
		if o.Modified.IsZero() || o.Modified.Sub(p.Date) > time.Minute {
			return fmt.Errorf("%s was written at %v, and it is %v", o.Key, o.Modified, p.Date)
		}
	}
	return nil
}

func clocks(server, ours time.Time) error {
	if off := server.Sub(ours); off.Abs() > time.Minute {
		return fmt.Errorf("it is off by %v", off.Round(time.Second))
	}
	return nil
}
