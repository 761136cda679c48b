package segment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/ledger"
)

// A reader reads one record's bytes where they lie, and verifies every block that it gives out.
type reader struct {
	seg    *segment
	key    ledger.Key
	off    int64 // of the bytes
	size   int64
	pin    ledger.Pin
	sums   atomic.Pointer[[]uint64] // nil until the first read
	last   atomic.Pointer[piece]    // of a read of less than a block, for the next one
	closed atomic.Bool
}

// A piece is verified bytes.
type piece struct {
	pos  int64
	data []byte
}

// open pins the record and takes a reference to its segment's file in one section, so that neither
// goes before Close.
func (r *Ring) open(k ledger.Key, size int64) (*reader, error) {
	if mutant.PlaceFirst || mutant.StaleHandle {
		return r.openStale(k, size)
	}
	rd := &reader{key: k}
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

// ReadAt implements io.ReaderAt. Bytes that do not verify are never given out: the blob is quarantined and
// the error is blob.ErrCorrupt.
func (rd *reader) ReadAt(p []byte, pos int64) (int, error) {
	if pos >= rd.size || pos < 0 {
		return 0, io.EOF
	}
	short := int64(len(p)) > rd.size-pos
	if short {
		p = p[:rd.size-pos]
	}
	n, err := rd.readAgain(p, pos)
	if err != nil {
		rd.seg.ring.quarantine(rd.key, placeOf(rd.seg.generation, rd.off-headerSize), err)
	}
	if err == nil && short {
		err = io.EOF
	}
	return n, err
}

// attempts is how often something is tried that may have met a bad moment and not a bad disk.
const attempts = 3

// readAgain is readAt, tried again. When it fails, the record is not to be had any more.
func (rd *reader) readAgain(p []byte, pos int64) (n int, err error) {
	for range attempts {
		if n, err = rd.readAt(p, pos); err == nil {
			return n, nil
		}
		rd.sums.Store(nil)
	}
	return 0, damaged(err)
}

// damaged makes bytes that can't be read an ErrCorrupt, like those that are wrong.
func damaged(err error) error {
	if errors.Is(err, blob.ErrCorrupt) {
		return err
	}
	return fmt.Errorf("%w: %w", blob.ErrCorrupt, err)
}

// readAt fills p with verified bytes from pos, all of which are in the record. A checksum is of a whole
// block, so whole blocks are read.
func (rd *reader) readAt(p []byte, pos int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	from := pos / blockSize * blockSize
	to := min((pos+int64(len(p))+blockSize-1)/blockSize*blockSize, rd.size)
	if to-from == int64(len(p)) {
		if err := rd.readBlocks(p, from); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	if b := rd.last.Load(); b != nil && b.pos == from && to-from == int64(len(b.data)) {
		return copy(p, b.data[pos-from:]), nil
	}
	b := &piece{from, make([]byte, to-from)}
	if err := rd.readBlocks(b.data, from); err != nil {
		return 0, err
	}
	if to-from <= blockSize {
		rd.last.Store(b)
	}
	return copy(p, b.data[pos-from:]), nil
}

// readBlocks fills b, which is whole blocks from pos on, or up to the end of the record.
func (rd *reader) readBlocks(b []byte, pos int64) error {
	sums, err := rd.loadSums()
	if err != nil {
		return err
	}
	if err := rd.seg.fill(b, rd.off+pos); err != nil {
		return err
	}
	for i := int64(0); i < int64(len(b)); i += blockSize {
		block := b[i:min(i+blockSize, int64(len(b)))]
		if rd.seg.sum(block, rd.off+pos+i) != sums[(pos+i)/blockSize] && !mutant.BodyUnsummed {
			return rd.seg.corrupt(rd.off-headerSize, "bytes from %d on", pos+i)
		}
	}
	return nil
}

func (rd *reader) loadSums() ([]uint64, error) {
	if sums := rd.sums.Load(); sums != nil {
		return *sums, nil
	}
	sums, err := rd.seg.readSums(rd.off-headerSize, rd.size)
	if err == nil {
		rd.sums.Store(&sums)
	}
	return sums, err
}

// readSums returns the checksums of the record at off.
func (s *segment) readSums(off, size int64) ([]uint64, error) {
	b := make([]byte, tableSize(size))
	err := s.fill(b, off+headerSize+padded(size))
	return decodeSums(b), err
}

// read returns the bytes of the record at off, verified, in one read.
func (s *segment) read(k ledger.Key, off, size int64) ([]byte, error) {
	b := make([]byte, span(size))
	if err := s.fill(b, off); err != nil {
		return nil, err
	}
	h, err := s.decodeHeader(b[:headerSize], off)
	if err != nil || h.key != k || h.size != size {
		return nil, s.corrupt(off, "header")
	}
	data := b[headerSize : headerSize+size : headerSize+size]
	sums := b[headerSize+padded(size):]
	for i := range blocks(size) {
		pos := i * blockSize
		if s.sum(data[pos:min(pos+blockSize, size)], off+headerSize+pos) != le.Uint64(sums[8*i:]) && !mutant.BodyUnsummed {
			return nil, s.corrupt(off, "bytes from %d on", pos)
		}
	}
	return data, nil
}

// readAgain is read, tried again.
func (s *segment) readAgain(k ledger.Key, off, size int64) (data []byte, err error) {
	for range attempts {
		if data, err = s.read(k, off, size); err == nil {
			return data, nil
		}
	}
	return nil, damaged(err)
}

// fill reads len(b) bytes at off. The end of a segment must not pass for the end of a blob.
func (s *segment) fill(b []byte, off int64) error {
	_, err := s.file.ReadAt(b, off)
	if err == io.EOF {
		return s.corrupt(off, "the file ends before")
	}
	if err != nil {
		return fmt.Errorf("read segment %s: %w", s.name, err)
	}
	return nil
}

func (s *segment) corrupt(off int64, what string, args ...any) error {
	return fmt.Errorf("%w: record at %d of segment %s: %s", blob.ErrCorrupt, off, s.name, fmt.Sprintf(what, args...))
}

// GetAll implements blob.Batcher.
func (r *Ring) GetAll(ctx context.Context, ds []digest.Digest) ([][]byte, []error) {
	data, errs := make([][]byte, len(ds)), make([]error, len(ds))
	for i, d := range ds {
		if errs[i] = ctx.Err(); errs[i] != nil {
			continue
		}
		if data[i], errs[i] = r.get(d); errs[i] != nil {
			errs[i] = &blob.Error{Op: "get", Digest: d, Err: errs[i]}
		}
	}
	return data, errs
}

// get returns a whole blob with one read.
func (r *Ring) get(d digest.Digest) ([]byte, error) {
	if d.IsEmpty() {
		return []byte{}, nil
	}
	rd, err := r.open(keyOf(d), d.Size)
	if err != nil {
		return nil, err
	}
	defer rd.Close()
	return rd.all()
}

// all returns all bytes with one read. The caller has bounded the size.
func (rd *reader) all() ([]byte, error) {
	off := rd.off - headerSize
	b, err := rd.seg.readAgain(rd.key, off, rd.size)
	if err != nil {
		rd.seg.ring.quarantine(rd.key, placeOf(rd.seg.generation, off), err)
	}
	return b, err
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
