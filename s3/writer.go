package s3

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"path/filepath"
	"sync"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/ledger"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// maxSize is how large a blob may be: S3's objects have 5 TiB, and the table must fit.
const maxSize = 4 << 40

// Create implements blob.Store.
func (s *Store) Create(ctx context.Context, d digest.Digest) (blob.Writer, error) {
	l, err := s.enter()
	if err != nil {
		return nil, &blob.Error{Op: "create", Digest: d, Err: err}
	}
	defer s.calls.Leave()
	if err := l.mayCreate(d); err != nil {
		return nil, &blob.Error{Op: "create", Digest: d, Err: err}
	}
	w := &writer{store: s, want: d, hash: d.Function.NewHash(), frame: frame{key: keyOf(d), size: d.Size, block: s.packer.block}}
	return w, nil
}

func (l *life) mayCreate(d digest.Digest) error {
	if d.Size < 0 || !d.Function.Valid() {
		return fmt.Errorf("%w: a blob needs a size and a known digest function", blob.ErrInvalid)
	}
	if d.Size > maxSize {
		return fmt.Errorf("%w, which is 4 TiB in a bucket", blob.ErrTooLarge)
	}
	if have, ok := l.ledger.SizeOf(keyOf(d)); ok && have != d.Size {
		return fmt.Errorf("%w: the blob with that hash has %d bytes", blob.ErrMismatch, have)
	}
	return nil
}

// A writer packs a blob's blocks as they come. What is packed waits in body: small blobs' in memory, larger ones' in a
// file.
type writer struct {
	store   *Store
	want    digest.Digest
	hash    hash.Hash
	written int64
	done    bool

	frame  frame
	buffer []byte // of the block that is being filled
	raw    bool   // the first blocks gained nothing, so the others are not tried
	body   body
}

// rawAfter is how many blocks that gain nothing are enough to try no more.
const rawAfter = 4

// Write implements io.Writer.
func (w *writer) Write(p []byte) (int, error) {
	if err := w.write(p); err != nil {
		return 0, &blob.Error{Op: "write", Digest: w.want, Err: err}
	}
	return len(p), nil
}

func (w *writer) write(p []byte) error {
	if w.done {
		return blob.ErrClosed
	}
	if w.written+int64(len(p)) > w.want.Size {
		return fmt.Errorf("%w: more than the declared %d bytes", blob.ErrMismatch, w.want.Size)
	}
	_, _ = w.hash.Write(p) // hashes never fail
	w.written += int64(len(p))
	for len(p) > 0 {
		if w.buffer == nil {
			w.buffer = make([]byte, 0, min(w.frame.block, w.want.Size))
		}
		n := min(w.frame.block-int64(len(w.buffer)), int64(len(p)))
		w.buffer = append(w.buffer, p[:n]...)
		p = p[n:]
		if int64(len(w.buffer)) == w.frame.block {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush packs the block that is full, or the last one.
func (w *writer) flush() error {
	b, packed := w.buffer, false
	if !w.raw {
		b, packed = w.store.packer.pack(w.buffer)
	}
	w.frame.add(b, packed)
	if !packed && len(w.frame.blocks) == rawAfter {
		w.raw = true
		for _, e := range w.frame.blocks {
			w.raw = w.raw && !e.packed
		}
	}
	err := w.body.append(w.store, b, w.want.Size > w.frame.block)
	w.buffer = w.buffer[:0]
	return err
}

// Commit implements blob.Writer.
func (w *writer) Commit() error {
	if w.done {
		return &blob.Error{Op: "commit", Digest: w.want, Err: blob.ErrClosed}
	}
	w.done = true
	defer w.Close()
	l, err := w.store.enter()
	if err == nil {
		defer w.store.calls.Leave()
		err = w.commit(l)
	}
	if err != nil {
		return &blob.Error{Op: "commit", Digest: w.want, Err: err}
	}
	return nil
}

func (w *writer) commit(l *life) error {
	got := digest.Digest{Function: w.want.Function, Hash: [32]byte(w.hash.Sum(nil)), Size: w.written}
	if got != w.want && !mutant.Immutable {
		return blob.Mismatch(w.want, got)
	}
	if w.want.IsEmpty() {
		return nil
	}
	if len(w.buffer) > 0 {
		if err := w.flush(); err != nil {
			return err
		}
	}
	head := w.frame.encode()
	return w.store.upload(w.store.ctx, l, w.frame.key, w.want.Size, joined{head, &w.body}, int64(len(head))+w.body.size)
}

// Close implements io.Closer.
func (w *writer) Close() error {
	w.done, w.buffer = true, nil
	return w.body.close()
}

// A body is what is packed so far.
type body struct {
	size int64
	data []byte
	file vfs.File
	gone func() error
}

func (b *body) append(s *Store, p []byte, large bool) error {
	if b.file == nil && large && s.fsys != nil {
		name := filepath.Join(s.spool, fmt.Sprintf("upload.%d", s.spools.Add(1)))
		f, err := s.fsys.Create(name, 0)
		if err != nil {
			return fmt.Errorf("spool an upload: %w", err)
		}
		b.file, b.gone = f, func() error { return s.fsys.Remove(name) }
	}
	if b.file == nil {
		b.data = append(b.data, p...)
	} else if _, err := b.file.WriteAt(p, b.size); err != nil {
		return fmt.Errorf("spool an upload: %w", err)
	}
	b.size += int64(len(p))
	return nil
}

// ReadAt implements io.ReaderAt.
func (b *body) ReadAt(p []byte, off int64) (int, error) {
	if b.file == nil {
		return bytesAt(b.data).ReadAt(p, off)
	}
	return b.file.ReadAt(p, off)
}

func (b *body) close() error {
	f := b.file
	b.data, b.file = nil, nil
	if f == nil {
		return nil
	}
	return errors.Join(f.Close(), b.gone())
}

// joined reads what is in memory, and then what follows.
type joined struct {
	head []byte
	rest io.ReaderAt
}

// ReadAt implements io.ReaderAt.
func (j joined) ReadAt(p []byte, off int64) (n int, err error) {
	if off < int64(len(j.head)) {
		n = copy(p, j.head[off:])
		if n == len(p) {
			return n, nil
		}
	}
	m, err := j.rest.ReadAt(p[n:], off+int64(n)-int64(len(j.head)))
	return n + m, err
}

// A flight is an upload under way. Others with the same bytes wait for it, and one of them takes over if it fails.
type flight struct {
	done chan struct{}
	err  error
}

// upload makes a blob present whose bytes are verified. It waits for another upload of the same blob; if that fails,
// the failure is only that one's.
func (s *Store) upload(ctx context.Context, l *life, k ledger.Key, size int64, object io.ReaderAt, stored int64) error {
	for {
		if ok, _ := l.ledger.Lease(k, size); ok {
			return l.yes()
		}
		f, leads := l.lead(k)
		if leads {
			f.err = s.put(ctx, l, k, size, object, stored)
			l.land(k, f)
			return f.err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if mutant.WaitersFail && f.err != nil {
			return f.err
		}
	}
}

// lead returns the flight of a blob, and whether it is the caller's.
func (l *life) lead(k ledger.Key) (f *flight, leads bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f = l.flights[k]; f != nil {
		return f, false
	}
	f = &flight{done: make(chan struct{})}
	l.flights[k] = f
	return f, true
}

func (l *life) land(k ledger.Key, f *flight) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.flights, k)
	close(f.done)
}

// put writes an incarnation and publishes it. If it fails, the incarnation may yet appear: nobody names it then but
// who finds it.
func (s *Store) put(ctx context.Context, l *life, k ledger.Key, size int64, object io.ReaderAt, stored int64) error {
	i := l.claim(k, size)
	defer l.settle(i)
	p := l.ids.place(i)
	if p == 0 {
		return errors.New("the bucket has had too many sessions since this one began")
	}
	if err := s.send(ctx, i.name(), object, stored); err != nil {
		return err
	}
	sim.Point("publish")
	l.ledger.Publish(k, size, p, always)
	return l.yes()
}

// send writes an object, when its turn has come.
func (s *Store) send(ctx context.Context, name string, object io.ReaderAt, stored int64) error {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.slots }()
	if _, err := s.bucket.Put(ctx, name, object, stored, bucket.Condition{}); err != nil {
		return err
	}
	s.counts.uploads.Add(1)
	s.counts.bytesUp.Add(stored)
	return nil
}

// PutAll implements blob.Batcher.
func (s *Store) PutAll(ctx context.Context, ds []digest.Digest, data [][]byte) []error {
	errs := make([]error, len(ds))
	l, err := s.enter()
	if err != nil {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	defer s.calls.Leave()
	var group sync.WaitGroup
	first := make(map[digest.Digest]int, len(ds))
	twin := make([]int, len(ds))
	for i, d := range ds {
		twin[i] = i
		if errs[i] = s.mayPut(l, d, data[i]); errs[i] != nil || d.IsEmpty() {
			continue
		}
		if j, ok := first[d]; ok {
			twin[i] = j
			continue
		}
		first[d] = i
		if ok, _ := l.ledger.Lease(keyOf(d), d.Size); ok {
			errs[i] = l.yes()
			continue
		}
		group.Go(func() {
			object := s.packer.seal(keyOf(d), data[i])
			errs[i] = s.upload(ctx, l, keyOf(d), d.Size, bytesAt(object), int64(len(object)))
		})
	}
	group.Wait()
	for i, j := range twin {
		errs[i] = errs[j]
		if errs[i] != nil {
			errs[i] = &blob.Error{Op: "put", Digest: ds[i], Err: errs[i]}
		}
	}
	return errs
}

func (s *Store) mayPut(l *life, d digest.Digest, data []byte) error {
	if err := l.mayCreate(d); err != nil {
		return err
	}
	if got := d.Function.Of(data); got != d && !mutant.Immutable {
		return blob.Mismatch(d, got)
	}
	return nil
}
