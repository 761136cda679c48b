package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// Open implements blob.Store.
func (s *Store) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	if d.IsEmpty() {
		return &reader{}, nil
	}
	l, err := s.enter()
	if err != nil {
		return nil, &blob.Error{Op: "open", Digest: d, Err: err}
	}
	defer s.calls.Leave()
	var r *reader
	if err := s.undamaged(ctx, l, keyOf(d), func() (err error) {
		r, err = s.open(ctx, l, d)
		return err
	}); err != nil {
		return nil, &blob.Error{Op: "open", Digest: d, Err: err}
	}
	return r, nil
}

// open reads a blob of one block whole, and the frame of a larger one.
func (s *Store) open(ctx context.Context, l *life, d digest.Digest) (*reader, error) {
	h, err := s.hold(ctx, l, keyOf(d), d.Size)
	if err != nil {
		return nil, err
	}
	r := &reader{store: s, held: h, size: h.size, parts: map[int64]*part{}}
	r.ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if h.size <= s.packer.block {
		data, err := s.all(ctx, &r.held, func(value []byte) error {
			if int64(len(value)) != h.size {
				return fmt.Errorf("%w: it has %d bytes", blob.ErrCorrupt, len(value))
			}
			return nil
		})
		if err != nil {
			_ = r.Close()
			return nil, err
		}
		r.data = data
		return r, nil
	}
	if err := r.begin(ctx); err != nil {
		_ = r.Close()
		return nil, err
	}
	return r, nil
}

// A reader reads a blob: one of a block from memory, a larger one some blocks at a time, the next ones ahead.
type reader struct {
	store *Store
	size  int64
	data  []byte // of one block

	ctx    context.Context // of what is fetched, perhaps ahead; ended by Close
	cancel context.CancelFunc
	once   sync.Once
	held   held // belongs to who fetches

	mu    sync.Mutex
	frame *frame
	parts map[int64]*part // by number
	order []int64         // of parts, the one that was wanted last at the end
	last  int64           // the part that was wanted last
}

// A part is some blocks of a blob that are there or on their way.
type part struct {
	done chan struct{}
	data []byte
	err  error
}

// keptParts is how many parts a reader keeps, those on their way included.
const keptParts = 4

// begin reads the frame.
func (r *reader) begin(ctx context.Context) error {
	n := frameSize(r.size, r.store.packer.block)
	longer := false
	for damaged := 0; ; {
		b, err := r.store.get(ctx, &r.held, 0, n)
		if err != nil {
			return err
		}
		f, err := decodeFrame(b)
		if errors.Is(err, errShort) && int64(len(b)) == n && !longer {
			// Written with another block size than ours.
			n, longer = 2*n+headerSize, true
			continue
		}
		if err == nil && (f.key != r.held.key || f.size != r.size) {
			err = fmt.Errorf("%w: it holds something else", blob.ErrCorrupt)
		}
		if err == nil {
			r.frame = f
			return nil
		}
		if damaged++; damaged == tries {
			return r.store.drop(&r.held, err)
		}
	}
}

// Size implements blob.Reader.
func (r *reader) Size() int64 { return r.size }

// ReadAt implements io.ReaderAt.
func (r *reader) ReadAt(p []byte, off int64) (n int, err error) {
	if off >= r.size || off < 0 {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), r.size-off)]
	if r.data != nil {
		n = copy(want, r.data[off:])
	} else {
		span := r.store.chunk * r.frame.block
		for n < len(want) {
			at := off + int64(n)
			b, err := r.part(at / span)
			if err != nil {
				return n, err
			}
			n += copy(want[n:], b[at%span:])
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// part returns part i, and begins to fetch those behind it if the reader goes on through the blob.
func (r *reader) part(i int64) ([]byte, error) {
	r.mu.Lock()
	p := r.want(i)
	count := blockCount(r.size, r.store.chunk*r.frame.block)
	if i == r.last+1 || i == 0 {
		for next := i + 1; next < min(i+keptParts-1, count); next++ {
			r.want(next)
		}
	}
	r.last = i
	r.mu.Unlock()
	<-p.done
	return p.data, p.err
}

// want returns a part, which is fetched unless it is there. The caller holds the mutex.
func (r *reader) want(i int64) *part {
	p := r.parts[i]
	if p == nil {
		p = &part{done: make(chan struct{})}
		r.parts[i] = p
		go r.fetch(r.held, r.frame, i, p)
	}
	for at, n := range r.order {
		if n == i {
			r.order = append(r.order[:at], r.order[at+1:]...)
			break
		}
	}
	r.order = append(r.order, i)
	if len(r.order) > keptParts {
		delete(r.parts, r.order[0])
		r.order = r.order[1:]
	}
	return p
}

// fetch reads the blocks of part i. h and f are a copy: what another fetch finds out does not matter here.
func (r *reader) fetch(h held, f *frame, i int64, p *part) {
	defer close(p.done)
	p.data, p.err = r.fetchFrom(r.ctx, &h, f, i)
	if p.err == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.parts[i] == p {
		delete(r.parts, i) // the next one tries again
	}
}

func (r *reader) fetchFrom(ctx context.Context, h *held, f *frame, i int64) ([]byte, error) {
	before := h.place
	first := i * r.store.chunk
	for damaged := 0; ; {
		last := min(first+r.store.chunk, int64(len(f.blocks))) - 1
		off := f.blocks[first].off
		n := f.blocks[last].off + int64(f.blocks[last].length) - off
		stored, err := r.store.get(ctx, h, off, n)
		if err != nil {
			return nil, err
		}
		if h.place != before {
			// Another copy may have been packed in another way.
			other := &reader{store: r.store, size: r.size, held: *h}
			if err := other.begin(ctx); err != nil {
				return nil, err
			}
			*h, f, before, damaged = other.held, other.frame, other.held.place, 0
			continue
		}
		from, _ := f.bounds(first)
		_, to := f.bounds(last)
		data := make([]byte, 0, to-from)
		for b := first; b <= last && err == nil; b++ {
			data, err = f.unpack(data, b, stored, off)
		}
		if err == nil {
			return data, nil
		}
		if !errors.Is(err, blob.ErrCorrupt) {
			return nil, err
		}
		if damaged++; damaged == tries {
			return nil, r.store.drop(h, err)
		}
	}
}

// Close implements io.Closer. It may be called again, to no effect.
func (r *reader) Close() error {
	r.once.Do(func() {
		if r.store != nil {
			r.cancel()
			r.held.pin.Release()
		}
	})
	return nil
}
