package bucket

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
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

// Check finds out whether a bucket does what a store relies on. It writes some small objects below prefix, and removes
// them. It returns an error if it could not find out.
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
	note("requests that are too old are refused", true, c.old(ctx))
	note("a batch of objects is deleted, and not listed any more", true, c.deleted(ctx))
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

func (c *checker) put(ctx context.Context, name, value string, when Condition) (Object, error) {
	c.mu.Lock()
	if c.made == nil {
		c.made = map[string]bool{}
	}
	c.made[c.prefix+name] = true
	c.mu.Unlock()
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
		got, _, err := c.Get(ctx, c.prefix+"again", 0, -1)
		if err != nil || string(got) != want {
			return fmt.Errorf("%q was written, and %q read: %w", want, got, err)
		}
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
	if _, err := c.put(ctx, "gone", "new", Condition{ETag: o.ETag}); !errors.Is(err, ErrCondition) {
		return fmt.Errorf("the write got %w", err)
	}
	return nil
}

func (c *checker) ranges(ctx context.Context) error {
	if _, err := c.put(ctx, "range", "0123456789", Condition{}); err != nil {
		return err
	}
	got, o, err := c.Get(ctx, c.prefix+"range", 3, 4)
	if err != nil || string(got) != "3456" || o.Size != 10 {
		return fmt.Errorf("got %q of %d bytes: %w", got, o.Size, err)
	}
	return nil
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

func (c *checker) deleted(ctx context.Context) error {
	if left, err := c.Delete(ctx, c.prefix+"list/00", c.prefix+"list/01", c.prefix+"list/none"); err != nil || len(left) > 0 {
		return fmt.Errorf("%v are left: %w", left, err)
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
