package s3

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"path/filepath"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/vfs"
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
