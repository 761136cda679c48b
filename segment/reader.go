package segment

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/ledger"
)

// A reader reads one record's bytes where they lie.
type reader struct {
	seg    *segment
	off    int64 // of the bytes
	size   int64
	pin    ledger.Pin
	closed atomic.Bool
}

// open pins the record and takes a reference to its segment's file in one section, so that neither
// goes before Close.
func (r *Ring) open(k ledger.Key, size int64) (*reader, error) {
	rd := new(reader)
	pin, ok := r.ledger.Pin(k, size, func(p ledger.Place, size int64) {
		generation, off := splitPlace(p)
		s := (*r.table.Load())[generation]
		if s == nil {
			panic(fmt.Sprintf("segment: the ledger names segment %d, which is not in the ring", generation))
		}
		if mutant.OpenHolds || s.tryRef() {
			rd.seg, rd.off, rd.size = s, off+headerSize, size
		}
	})
	if !ok {
		return nil, blob.ErrNotFound
	}
	if rd.pin = pin; rd.seg == nil {
		pin.Release()
		return nil, blob.ErrClosed
	}
	if err := r.standing(); err != nil {
		return nil, errors.Join(err, rd.Close())
	}
	sim.Point("opened")
	if mutant.OpenHolds {
		rd.seg.refs.Add(1)
	}
	return rd, nil
}

// Size implements blob.Reader.
func (rd *reader) Size() int64 { return rd.size }

// ReadAt implements io.ReaderAt.
func (rd *reader) ReadAt(p []byte, pos int64) (int, error) {
	if pos >= rd.size || pos < 0 {
		return 0, io.EOF
	}
	short := int64(len(p)) > rd.size-pos
	if short {
		p = p[:rd.size-pos]
	}
	n, err := rd.seg.file.ReadAt(p, rd.off+pos)
	if err != nil {
		return n, fmt.Errorf("read segment %s: %w", rd.seg.name, unexpected(err))
	}
	if short {
		return n, io.EOF
	}
	return n, nil
}

// unexpected keeps the end of a segment from passing for the end of a blob.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Close implements io.Closer. It may be called again, to no effect.
func (rd *reader) Close() error {
	if !rd.closed.Swap(true) {
		rd.pin.Release()
		rd.seg.unref()
	}
	return nil
}

// emptyReader reads the blob of no bytes, which is nowhere.
type emptyReader struct{}

func (emptyReader) Size() int64                       { return 0 }
func (emptyReader) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }
func (emptyReader) Close() error                      { return nil }
