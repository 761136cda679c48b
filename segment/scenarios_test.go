package segment

import (
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// A scenario is one short life of a ring, which starts open. Everything in it may fail.
type scenario struct {
	name string
	run  func(c *client)
	full bool // uploads may be refused for want of room
}

// scenarios are driven by TestEveryOperationFails and TestEveryCrashImage. The ring takes six
// segments: blobs up to 512 bytes are appended with their neighbours, those up to 16 KiB stream, four
// of 16000 bytes fill a segment, and larger ones have their own.
var scenarios = []scenario{
	{name: "put_small", run: func(c *client) { c.put(1); c.put(500); c.put(0); c.put(512) }},
	{name: "put_streamed", run: func(c *client) { c.put(3000); c.put(15000) }},
	{name: "put_own_segment", run: func(c *client) { c.put(40000); c.put(100) }},
	{name: "put_twice", run: func(c *client) {
		for _, n := range []int{500, 3000, 40000} {
			c.ask(c.put(n))
			c.put(n)
		}
	}},
	{name: "two_uploads_of_one_blob", run: func(c *client) {
		for _, n := range []int{400, 9000, 30000} {
			one, two := c.create(n), c.create(n)
			two.commit()
			one.commit()
		}
	}},
	{name: "abandoned_uploads", run: func(c *client) {
		for _, n := range []int{400, 15000, 40000} {
			c.put(n / 2)
			c.create(n).abandon()
		}
		c.result(1)
	}},
	{name: "batch", run: func(c *client) { c.batch(1, 2, 300, 2, 0, 512, 2000); c.batch(300, 301); c.result(1) }},
	{name: "result", run: func(c *client) { c.put(100); c.put(5000); c.put(20000); c.result(1); c.put(101) }},
	{name: "result_replaced", run: func(c *client) {
		for n := range 3 {
			c.put(1000 + n)
			c.result(1)
			c.result(2)
		}
	}},
	{name: "result_replaced_across_segments", run: func(c *client) {
		c.result(1)
		c.fill(5)
		c.result(1)
		c.fill(5)
		c.result(1)
	}},
	{name: "result_dropped", run: func(c *client) { c.put(300); c.result(1); c.drop(1); c.result(2); c.result(1) }},
	{name: "rotate_with_open_uploads", run: func(c *client) {
		streamed, own := c.create(10000), c.create(30000)
		c.fill(5)
		c.result(1)
		streamed.commit()
		c.fill(4)
		own.commit()
		c.result(2)
	}},
	{name: "evict_after_leases", full: true, run: func(c *client) {
		c.result(1)
		c.fill(20)
		c.leasesEnd()
		c.fill(8)
		c.result(1)
	}},
	{name: "evict_with_pinned_reader", full: true, run: func(c *client) {
		c.pin(c.put(9000))
		c.fill(16)
		c.leasesEnd()
		c.fill(12)
	}},
	{name: "evict_what_is_asked_for", full: true, run: func(c *client) {
		c.fill(3)
		d := c.put(2000)
		c.fill(12)
		c.leasesEnd()
		c.ask(d)
		c.fill(12)
		c.result(1)
	}},
	{name: "fill_until_full", full: true, run: func(c *client) {
		c.put(700)
		c.result(1)
		c.fill(26)
		c.result(1)
		c.leasesEnd()
		c.fill(4)
		c.result(2)
	}},
	{name: "big_blobs", full: true, run: func(c *client) {
		for n := range 4 {
			c.put(90000 + n)
		}
		c.leasesEnd()
		c.put(200000)
		c.put(90004)
		c.result(1)
	}},
	{name: "close", run: func(c *client) {
		c.put(200)
		c.put(9000)
		c.put(40000)
		c.result(1)
		c.put(201)
		c.close()
		c.open()
	}},
	{name: "close_with_open_uploads", run: func(c *client) {
		c.put(200)
		small, streamed, own := c.create(201), c.create(9000), c.create(40000)
		c.close()
		small.refused()
		streamed.refused()
		own.refused()
		c.open()
	}},
	{name: "close_after_leases", run: func(c *client) {
		c.fill(5)
		c.leasesEnd()
		d := c.put(300)
		c.close()
		c.open()
		c.ask(d)
	}},
	{name: "kill", run: func(c *client) {
		c.put(200)
		c.result(1)
		c.put(9000)
		c.put(40000)
		c.kill()
		c.put(201)
		c.result(1)
		c.kill()
	}},
	{name: "kill_in_uploads", run: func(c *client) {
		c.put(200)
		c.create(9000)
		c.create(40000)
		c.put(201)
		c.fill(5)
		c.create(9001)
		c.kill()
		c.put(9000)
		c.put(40000)
		c.result(1)
	}},
	{name: "power_cut", run: func(c *client) {
		c.put(9000)
		c.put(40000)
		c.result(1)
		c.put(9001)
		c.result(2)
		c.create(8000)
		c.put(100)
		c.powerCut()
		c.put(9001)
		c.result(1)
	}},
	{name: "keep", run: func(c *client) {
		c.keep("a", 300, 3000, 40000)
		c.keep("b", 300)
		c.release("a")
		c.put(9000)
		c.keep("a", 9000)
	}},
	{name: "keep_replaced_and_kept_over_restarts", run: func(c *client) {
		c.keep("a", 300, 9000)
		c.keep("a", 9000, 301)
		c.kill()
		c.keep("a", 302)
		c.powerCut()
		c.release("a")
		c.close()
		c.open()
		c.keep("a", 300)
	}},
	{name: "keep_over_evictions", full: true, run: func(c *client) {
		c.keep("a", 300, 9000, 40000)
		c.fill(8)
		c.leasesEnd()
		c.fill(8)
		c.release("a")
		c.leasesEnd()
		c.fill(4)
	}},
	{name: "restarts_between_writes", run: func(c *client) {
		for n := range 3 {
			c.put(400 + n)
			c.put(7000 + n)
			c.result(1)
			if n == 1 {
				c.kill()
			} else {
				c.close()
				c.open()
			}
		}
	}},
}

// The steps of a scenario follow. Those that begin something return it.

// put uploads the blob of n bytes that n stands for, in two writes.
func (c *client) put(n int) digest.Digest {
	u := c.create(n)
	u.commit()
	return u.d
}

// fill puts n blobs of which four fill a segment. No two calls put the same.
func (c *client) fill(n int) {
	for range n {
		c.filled++
		c.put(16000 - c.filled)
	}
}

// batch puts blobs in one round trip and reads them back in another.
func (c *client) batch(sizes ...int) {
	ds, data := make([]digest.Digest, len(sizes)), make([][]byte, len(sizes))
	for i, n := range sizes {
		ds[i], data[i] = c.blob(n)
	}
	for i, err := range c.ring.PutAll(c.Context(), ds, data) {
		if c.ok("PutAll", err) {
			c.said(ds[i])
		}
	}
}

// ask asks for blobs; what is not missing is a yes.
func (c *client) ask(ds ...digest.Digest) {
	missing, err := c.ring.Missing(c.Context(), digest.SetOf(ds...))
	if !c.ok("Missing", err) {
		return
	}
	for _, d := range ds {
		if !missing.Has(d) {
			c.said(d)
		}
	}
}

// result puts the next version of a result, which names every blob of which there was a yes.
func (c *client) result(key byte) {
	version, named := c.trying(key)
	if c.ok("Put of a result", c.ring.Put(c.Context(), [32]byte{key}, []byte{version})) {
		c.acknowledged(key, version, named)
	}
}

// drop drops a result, which a restart may bring back.
func (c *client) drop(key byte) {
	rec, err := c.ring.Get(c.Context(), [32]byte{key})
	if c.ok("Get of a result", err) {
		c.dropping(key)
		c.ok("Drop", c.ring.Drop(c.Context(), [32]byte{key}, rec.Incarnation))
	}
}

// pin opens a blob and holds it until the scenario ends.
func (c *client) pin(d digest.Digest) {
	rd, err := c.ring.Open(c.Context(), d)
	if c.ok("Open", err) {
		c.pinned = append(c.pinned, pinned{d, rd})
	}
}

// A pinned is a reader that stays open.
type pinned struct {
	d  digest.Digest
	rd blob.Reader
}

// An upload is one that is half written, or nothing if even that failed.
type upload struct {
	c *client
	d digest.Digest
	w blob.Writer
}

// create begins an upload and writes its first half.
func (c *client) create(n int) *upload {
	d, data := c.blob(n)
	u := &upload{c: c, d: d}
	w, err := c.ring.Create(c.Context(), d)
	if !c.ok("Create", err) {
		return u
	}
	c.uploads = append(c.uploads, w)
	if _, err := w.Write(data[:n/2]); c.ok("Write", err) {
		u.w = w
	}
	return u
}

// end writes the second half and commits.
func (u *upload) end() error {
	_, data := u.c.blob(int(u.d.Size))
	if _, err := u.w.Write(data[u.d.Size/2:]); err != nil {
		return err
	}
	return u.w.Commit()
}

func (u *upload) commit() {
	if u.w != nil && u.c.ok("Commit", u.end()) {
		u.c.said(u.d)
	}
}

func (u *upload) abandon() {
	if u.w != nil {
		u.c.ok("Close of an upload", u.w.Close())
	}
}

// refused ends an upload into a ring that is closed.
func (u *upload) refused() {
	if u.w != nil && u.end() == nil {
		u.c.Errorf("Commit of %v after Close = nil", u.d)
	}
}
