package upstream

import (
	"context"
	"errors"
	"io"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
)

// Copy writes the blob to to, a large one by several ranges at once and so in no order. It is verified
// when Copy returns nil; after an error, bytes may have been written.
func (s *Store) Copy(ctx context.Context, d digest.Digest, to io.WriterAt) error {
	if err := sized("read", d); err != nil {
		return err
	}
	if d.IsEmpty() {
		return nil
	}
	if d.Size >= largeSize {
		return fail("read", d, s.copyRanges(ctx, d, to), reading)
	}
	r := s.download(ctx, d, 0, d.Size)
	defer r.close()
	return fail("read", d, r.copy(to), reading)
}

// copy writes all that comes to to.
func (r *download) copy(to io.WriterAt) error {
	for {
		err := r.fill()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := to.WriteAt(r.more, r.offset()); err != nil {
			return err
		}
		r.more = nil
	}
}

// A piece is a range of a blob, or why it could not be had.
type piece struct {
	data []byte
	err  error
}

// copyRanges fetches several ranges at once and hashes them in order. The ranges that have come and wait
// to be hashed are bounded, and so is the memory: parallel times rangeSize.
func (s *Store) copyRanges(ctx context.Context, d digest.Digest, to io.WriterAt) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	count := int((d.Size + rangeSize - 1) / rangeSize)
	pieces := make(chan chan piece, s.parallel-1) // one more is being hashed
	go func() {
		defer close(pieces)
		for i := range count {
			one := make(chan piece, 1)
			select {
			case pieces <- one:
			case <-ctx.Done():
				return
			}
			go func() { one <- s.piece(ctx, d, int64(i)*rangeSize, to) }()
		}
	}()
	hash := d.Function.NewHash()
	var err error
	for one := range pieces {
		// All that were begun are waited for: nobody writes to to after the return.
		if p := <-one; err == nil && p.err != nil {
			err = p.err
			cancel()
		} else if err == nil {
			hash.Write(p.data)
		}
	}
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		if got := sum(d.Function, hash, d.Size); got != d && !mutant.RangesBelieved {
			err = corrupt(d, got)
		}
	}
	return err
}

// piece fetches and writes the range that begins at off.
func (s *Store) piece(ctx context.Context, d digest.Digest, off int64, to io.WriterAt) piece {
	data := make([]byte, min(rangeSize, d.Size-off))
	r := s.download(ctx, d, off, off+int64(len(data)))
	defer r.close()
	if _, err := r.read(data); err != nil {
		return piece{err: err}
	}
	if mutant.RangesSwapped {
		off = d.Size - off - int64(len(data))
	}
	_, err := to.WriteAt(data, off)
	return piece{data, err}
}
