package pbs

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sarsen-build/sarsen/backup/pbs/format"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// The states of a verification.
const (
	verifiedOK     = "ok"
	verifiedFailed = "failed"
)

// verifyParams say what to verify.
type verifyParams struct {
	ns       string
	depth    int    // how many levels below ns
	kind, id string // of one group, or empty
	time     int64  // of one snapshot of it, or 0
	skip     bool   // leave out what was verified already
	outdated int64  // but for what was verified more than so many days ago; 0 is no such bound
}

func (p *params) verifyParams() (v verifyParams, err error) {
	v.ns, _ = p.text("ns")
	if err := checkNamespace(v.ns); err != nil {
		return v, err
	}
	v.kind, _ = p.text("backup-type")
	v.id, _ = p.text("backup-id")
	if v.time, _, err = p.number("backup-time"); err != nil {
		return v, err
	}
	if v.skip, err = p.truth("ignore-verified"); err != nil {
		return v, err
	}
	if _, ok := p.text("ignore-verified"); !ok {
		v.skip = true
	}
	if v.outdated, _, err = p.number("outdated-after"); err != nil {
		return v, err
	}
	depth, ok, err := p.number("max-depth")
	if err != nil {
		return v, err
	}
	if v.kind != "" && v.id != "" {
		return v, nil // a group, which has nothing below it
	}
	v.kind, v.id, v.time = "", "", 0
	if v.depth = int(depth); !ok {
		v.depth = maxDepth
	}
	return v, nil
}

// wants reports whether a snapshot is to be verified.
func (v verifyParams) wants(s *snapshot) bool {
	return (v.time == 0 || v.time == s.name.time) && !(v.skip && s.Verify.fresh(v.outdated))
}

// verify starts the verification of a snapshot, a group, or a namespace and all below it.
func (q *request) verify(d *datastore) (any, error) {
	p, err := q.params.verifyParams()
	if err != nil {
		return nil, err
	}
	if !q.account.may(d.Name, p.ns, Read) {
		return nil, forbidden("read")
	}
	if err := d.needNamespace(q.r.Context(), p.ns); err != nil {
		return nil, err
	}
	what := d.Name
	if p.id != "" {
		what += ":" + group{p.ns, p.kind, p.id}.String()
	}
	return q.server.begin("verify", what, q.account.Name, func(ctx context.Context, t *task) error { return d.verify(ctx, t, p) }), nil
}

func (d *datastore) verify(ctx context.Context, t *task, p verifyParams) error {
	v := &verifier{store: d, task: t, done: map[digest.Key]bool{}}
	all, err := d.namespaces(ctx, p.ns, p.depth)
	if err != nil {
		return err
	}
	for _, ns := range all {
		err := d.each(ctx, ns, p.kind, p.id, func(s *snapshot) error {
			if !p.wants(s) {
				return nil
			}
			return v.snapshot(ctx, s)
		})
		if err != nil {
			return err
		}
	}
	if v.failed > 0 {
		return fmt.Errorf("verification failed of %d snapshots - please check the log for details", v.failed)
	}
	return nil
}

// fresh reports whether a verification is recent enough: days, or ever if that is 0.
func (v *verification) fresh(days int64) bool {
	if v == nil {
		return false
	}
	if days == 0 {
		return true
	}
	// The name of the task has its start: UPID:NODE:PID:PSTART:TASK:START:...
	parts := strings.Split(v.UPID, ":")
	var start int64
	if len(parts) > 5 {
		_, _ = fmt.Sscanf(parts[5], "%X", &start)
	}
	return time.Since(time.Unix(start, 0)) < time.Duration(min(days, 1e5))*24*time.Hour
}

// each calls fn for the snapshots of a namespace, newest first, or of one group.
func (d *datastore) each(ctx context.Context, ns, kind, id string, fn func(*snapshot) error) error {
	var all []*snapshot
	for _, k := range types {
		if kind != "" && k != kind {
			continue
		}
		for s, err := range d.snapshots(ctx, ns, k, id) {
			if err != nil {
				return err
			}
			all = append(all, s)
		}
	}
	slices.SortStableFunc(all, func(a, b *snapshot) int { return int(min(1, max(-1, b.name.time-a.name.time))) })
	for _, s := range all {
		if err := fn(s); err != nil {
			return err
		}
	}
	return nil
}

// A verifier reads snapshots and remembers which blobs it has seen, so that what several share is read once.
type verifier struct {
	store  *datastore
	task   *task
	failed int

	mu   sync.Mutex
	done map[digest.Key]bool // whether it verified
}

// snapshot reads everything that a snapshot refers to and writes down how it is.
func (v *verifier) snapshot(ctx context.Context, s *snapshot) error {
	began := time.Now()
	problems, err := v.read(ctx, s)
	if err != nil {
		return err
	}
	state := verification{verifiedOK, v.task.id}
	for _, p := range problems {
		state.State = verifiedFailed
		v.task.logf("%s: %v", s.name, p)
	}
	if len(problems) > 0 {
		v.failed++
	}
	v.task.logf("verified %s in %s: %s", s.name, time.Since(began).Round(time.Millisecond), state.State)
	err = v.store.change(ctx, s.name, func(s *snapshot, h *hold) error {
		m, err := v.store.manifest(ctx, s)
		if err != nil {
			// Without a manifest the root alone says it.
			s.Verify = &state
			return nil
		}
		if err := m.Set("verify_state", state); err != nil {
			return err
		}
		return h.putManifest(ctx, s, m)
	})
	if err != nil && ctx.Err() == nil {
		v.task.logf("%s: the state was not written down: %v", s.name, err)
	}
	return ctx.Err()
}

// read returns what is wrong with a snapshot. The error is that of the task.
func (v *verifier) read(ctx context.Context, s *snapshot) (problems []error, err error) {
	chunks, err := v.store.chunks(ctx, s)
	if err != nil {
		return []error{fmt.Errorf("the list of chunks: %w", err)}, ctx.Err()
	}
	// What is missing after this is gone.
	h := v.store.newHold()
	defer func() { _ = h.release(context.WithoutCancel(ctx)) }()
	set, err := s.blobs(chunks)
	if err == nil {
		err = h.keepLeft(ctx, set)
	}
	if err != nil {
		v.task.logf("%s is verified as it changes: %v", s.name, err)
	}
	for _, f := range s.Files {
		if err := v.file(ctx, f, chunks); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", f.Name, err))
		}
	}
	work, wait := make(chan format.Chunk), sync.WaitGroup{}
	for range min(4, runtime.NumCPU()) {
		wait.Go(func() {
			for c := range work {
				if err := v.chunk(ctx, c); err != nil {
					v.mu.Lock()
					problems = append(problems, fmt.Errorf("chunk %x: %w", c.Digest, err))
					v.mu.Unlock()
				}
			}
		})
	}
	for i := range chunks.Len() {
		if ctx.Err() != nil {
			break
		}
		work <- chunks.At(i)
	}
	close(work)
	wait.Wait()
	return problems, ctx.Err()
}

// file verifies an index, and that all its chunks are in the list; or a blob.
func (v *verifier) file(ctx context.Context, f file, chunks format.ChunkList) error {
	if !isIndex(f.Name) {
		b, err := v.store.load(ctx, f.Blob, format.MaxBlob+format.EncryptedHeaderSize)
		if err == nil {
			_, err = format.ParseBlob(b)
		}
		return err
	}
	x, _, err := v.store.index(ctx, f)
	if err != nil {
		return err
	}
	for i, d := range x.Digests {
		c, ok := chunks.Find(d)
		begin, end := x.Bounds(i)
		if !ok || uint64(c.Size) != end-begin {
			return fmt.Errorf("%w: chunk %d is not held, or of another size", blob.ErrCorrupt, i)
		}
	}
	return nil
}

// chunk reads a chunk, unless it was read before. What the store can't read it sets aside by itself.
func (v *verifier) chunk(ctx context.Context, c format.Chunk) error {
	b := blobOf(c)
	v.mu.Lock()
	ok, known := v.done[b.Key()]
	v.mu.Unlock()
	if known {
		if ok {
			return nil
		}
		return errors.New("found damaged before")
	}
	data, err := v.store.loadNow(ctx, stored{b.Hex(), b.Size}, format.MaxChunk+format.EncryptedHeaderSize)
	if err == nil {
		var again format.Chunk
		if again, err = checkChunk(c.Digest, int64(c.Size), data); err == nil && again.Encrypted != c.Encrypted {
			err = fmt.Errorf("%w: encrypted or not", blob.ErrCorrupt)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	v.mu.Lock()
	v.done[b.Key()] = err == nil
	v.mu.Unlock()
	return err
}
