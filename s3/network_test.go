package s3

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/s3fault"
	"github.com/sarsen-build/sarsen/internal/sim/explore"
	"github.com/sarsen-build/sarsen/internal/versitygw"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// TestNetwork: servers put, ask, keep and collect on a real S3 server, over a network that loses, delays, repeats,
// reorders and damages. What they said holds when it has calmed down.
func TestNetwork(t *testing.T) {
	gate := versitygw.Start(t)
	seeds, deleted := 0, 0
	explore.Each(t, 10, func(t *testing.T, seed uint64) {
		n := &network{T: t, gate: gate, seed: seed, prefix: fmt.Sprintf("seed%d/", seed), begin: time.Now()}
		n.run()
		seeds, deleted = seeds+1, deleted+n.deleted
	})
	t.Logf("%d seeds, %d objects deleted", seeds, deleted)
}

// A network is some servers and a bucket, with faults between them.
type network struct {
	*testing.T
	gate   *versitygw.Server
	seed   uint64
	prefix string
	begin  time.Time
	hosts  []*host

	deleted int
}

// A host is a server and what it said.
type host struct {
	*Store
	net  *s3fault.Transport
	name string
	rng  *rand.Rand

	yes     map[digest.Digest]bool
	roots   map[string][]digest.Digest // by name: what was acknowledged last; nil if it was released
	records map[[32]byte]string
}

func (n *network) open(transport http.RoundTripper) bucket.Bucket {
	b, err := bucket.Open(n.Context(), bucket.Options{
		Endpoint: n.gate.Endpoint, Bucket: n.gate.Bucket, Prefix: n.prefix, PathStyle: true, AccessKey: n.gate.AccessKey, SecretKey: n.gate.SecretKey,
		Transport: transport, Attempts: 1 + int(n.seed%3), PartSize: bucket.MinPart,
	})
	if err != nil {
		n.Fatal(err)
	}
	return b
}

func (n *network) serve(name string) *host {
	h := &host{name: name, net: &s3fault.Transport{Next: http.DefaultTransport, Fault: s3fault.Seeded(n.seed, 12)}, rng: rand.New(rand.NewPCG(n.seed, uint64(name[0])))}
	h.yes, h.roots, h.records = map[digest.Digest]bool{}, map[string][]digest.Digest{}, map[[32]byte]string{}
	b := n.open(h.net)
	o := Options{Host: name, Lease: 24 * time.Hour, Heartbeat: time.Second, parallel: 8, Lookup: name == "b", manual: true, uncompressed: n.seed%2 == 0}
	// A heartbeat of real time between two looks of the collector; a thousand until a slow machine is given up.
	o.clock = func() time.Duration { return time.Since(n.begin) / 1000 }
	began := 0
	o.newID = func() string { began++; return fmt.Sprintf("%s%d", name, began) }
	for try := 0; h.Store == nil; try++ {
		s, err := Open(n.Context(), b, o)
		if err != nil && try == 20 {
			n.Fatalf("%s: Open = %v", name, err)
		}
		h.Store = s
	}
	n.hosts = append(n.hosts, h)
	return h
}

func (n *network) run() {
	calm := n.open(http.DefaultTransport)
	for i := range 6 { // two copies of three blobs that nobody wants yet
		d := digest.SHA256.Of(data(uint64(i%3 + 1)))
		at := incarnation{key: keyOf(d), size: d.Size, session: "0", n: uint64(i + 1)}
		object := packer{block: blockSize}.seal(at.key, data(uint64(i%3+1)))
		if _, err := calm.Put(n.Context(), at.name(), bytesAt(object), int64(len(object)), bucket.Condition{}); err != nil {
			n.Fatal(err)
		}
	}
	a := n.serve("a")
	done := make(chan struct{})
	var work, polls sync.WaitGroup
	for _, h := range []*host{n.serve("b"), n.serve("c")} {
		work.Go(func() {
			for range 8 {
				h.act(n.Context())
			}
		})
	}
	for _, h := range n.hosts {
		polls.Go(func() { h.poll(n.Context(), done) })
	}
	work.Go(func() {
		for range 3 {
			if r, err := a.Collect(n.Context(), Policy{All: true, Patience: 3 * time.Millisecond}); err == nil { // 3 s
				n.deleted += r.Deleted
			}
		}
	})
	work.Wait()
	close(done)
	polls.Wait()
	for _, h := range n.hosts {
		h.net.Close()
		h.net.Fault = func(*http.Request, int) s3fault.Fault { return s3fault.None }
	}
	n.judge(calm)
}

// poll does what the background does.
func (h *host) poll(ctx context.Context, done chan struct{}) {
	for {
		select {
		case <-done:
			return
		case <-time.After(20 * time.Millisecond):
			l := h.now.Load()
			if h.renew(ctx, l) == nil {
				_ = h.follow(ctx, l)
			}
		}
	}
}

// act does one thing and notes what came of it.
func (h *host) act(ctx context.Context) {
	b := data(1 + h.rng.Uint64N(5))
	if h.rng.IntN(8) == 0 {
		b = slices.Repeat(data(9), 1<<20) // in parts
	}
	d := digest.SHA256.Of(b)
	name := fmt.Sprint(h.name, "/root ", h.rng.IntN(2))
	switch h.rng.IntN(6) {
	case 0, 1:
		if blob.Put(ctx, h, d, b) == nil {
			h.yes[d] = true
		}
	case 2:
		if missing, err := h.Missing(ctx, digest.SetOf(d)); err == nil && missing.Len() == 0 {
			h.yes[d] = true
		}
	case 3:
		// After an error the one or the other may stand.
		if err := h.Keep(ctx, name, nil, digest.SetOf(d)); err == nil {
			h.roots[name] = []digest.Digest{d}
		} else {
			delete(h.roots, name)
		}
	case 4:
		if err := h.Release(ctx, name); err == nil {
			h.roots[name] = nil
		} else {
			delete(h.roots, name)
		}
	case 5:
		key, value := [32]byte{h.name[0]}, fmt.Sprint(h.rng.Uint64())
		if err := h.Put(ctx, key, []byte(value)); err == nil {
			h.records[key] = value
		} else {
			delete(h.records, key)
		}
	}
}

// judge sees that what was said holds, for who said it and for a server that begins now.
func (n *network) judge(calm bucket.Bucket) {
	o := small
	o.blockSize = 0
	later := openStore(n.T, calm, o)
	kept := map[string][]digest.Digest{}
	for r, err := range later.Kept(n.Context(), "") {
		if err != nil {
			n.Fatalf("Kept = %v", err)
		}
		kept[r.Name] = r.Few
	}
	for _, h := range n.hosts {
		for _, s := range []*Store{h.Store, later} {
			for d := range h.yes {
				if missing, err := s.Missing(n.Context(), digest.SetOf(d)); err != nil || missing.Len() > 0 {
					n.Errorf("YesStands: %s: Missing of what is there = %v, %v", h.name, missing.List(), err)
				}
				if err := check(s, d); err != nil {
					n.Errorf("YesStands: %s: %v", h.name, err)
				}
			}
			for key, want := range h.records {
				if r, err := s.Get(n.Context(), key); err != nil || string(r.Value) != want {
					n.Errorf("%s: record = %q, %v, want %q", h.name, r.Value, err, want)
				}
			}
		}
		for name, want := range h.roots {
			if got, ok := kept[name]; !slices.Equal(got, want) || ok != (want != nil) {
				n.Errorf("CollectorSpares: %s: %q keeps %v, want %v", h.name, name, got, want)
			}
		}
	}
	c, err := Fsck(n.Context(), calm, Check{Bytes: true})
	if err != nil || !c.Sound() {
		n.Errorf("Fsck = %+v, %v", c, err)
	}
	for _, h := range n.hosts {
		if err := h.Close(); err != nil && !errors.Is(err, ErrSuspended) {
			n.Errorf("%s: Close = %v", h.name, err)
		}
	}
	closeStore(n.T, later)
}
