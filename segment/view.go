package segment

import (
	"context"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/ledger"
)

// A View is what start-up would find whole in a directory that no process has. It can only be read, and
// only as long as Inspect runs.
type View struct {
	ledger   *ledger.Ledger
	segments map[uint32]*segment // nil is a file that is none
}

func newView() *View {
	return &View{ledger: ledger.New(time.Hour), segments: map[uint32]*segment{}} // nothing in it is leased
}

func (v *View) close() {
	for _, s := range v.segments {
		if s != nil {
			s.unref()
		}
	}
}

// add takes in one record. Of several of a key the one with the greatest place stands.
func (v *View) add(l line, p ledger.Place) {
	if l.key.Kind != kindVoid {
		v.ledger.Restore(ledger.Found{Key: l.key, Size: l.size, Place: p})
	}
}

func (v *View) find(k ledger.Key, size int64) (*reader, bool) {
	rd := &reader{key: k}
	pin, ok := v.ledger.Pin(k, size, func(p ledger.Place, size int64) {
		generation, off := splitPlace(p)
		rd.seg, rd.off, rd.size = v.segments[generation], off+headerSize, size
	})
	if ok {
		pin.Release()
	}
	return rd, ok
}

// Open returns a blob, or blob.ErrNotFound.
func (v *View) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	if d.IsEmpty() {
		return emptyReader{}, nil
	}
	rd, ok := v.find(keyOf(d), d.Size)
	if !ok {
		return nil, &blob.Error{Op: "open", Digest: d, Err: blob.ErrNotFound}
	}
	return viewReader{rd}, nil
}

// EachRecord calls do with the value of every record, until do returns an error.
func (v *View) EachRecord(ctx context.Context, do func(key [32]byte, value []byte) error) error {
	var keys []ledger.Key
	v.ledger.Each(func(k ledger.Key, _ int64, _ ledger.Place, _ bool) {
		if k.Kind == ledger.Record {
			keys = append(keys, k)
		}
	})
	for _, k := range keys {
		if err := ctx.Err(); err != nil {
			return err
		}
		rd, ok := v.find(k, -1)
		if !ok {
			continue
		}
		value, err := rd.seg.read(k, rd.off-headerSize, rd.size)
		if err == nil {
			err = do(k.Hash, value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Kept yields the roots, in no order. A root that can't be read is reported as damage already.
func (v *View) Kept(ctx context.Context, prefix string) iter.Seq2[blob.Root, error] {
	return func(yield func(blob.Root, error) bool) {
		var keys []ledger.Key
		v.ledger.Each(func(k ledger.Key, _ int64, _ ledger.Place, _ bool) {
			if k.Kind == ledger.Root {
				keys = append(keys, k)
			}
		})
		for _, k := range keys {
			rd, ok := v.find(k, -1)
			if !ok {
				continue
			}
			value, err := rd.seg.read(k, rd.off-headerSize, rd.size)
			var root blob.Root
			var released bool
			if err == nil {
				root, released, err = blob.DecodeRoot(value)
			}
			if err != nil || released || !strings.HasPrefix(root.Name, prefix) {
				continue
			}
			if !yield(root, ctx.Err()) || ctx.Err() != nil {
				return
			}
		}
	}
}

// A viewReader reads as reader does, and quarantines nothing.
type viewReader struct{ *reader }

// ReadAt implements io.ReaderAt.
func (r viewReader) ReadAt(p []byte, pos int64) (int, error) {
	if pos >= r.size || pos < 0 {
		return 0, io.EOF
	}
	short := int64(len(p)) > r.size-pos
	if short {
		p = p[:r.size-pos]
	}
	n, err := r.readAt(p, pos)
	if err == nil && short {
		err = io.EOF
	}
	return n, err
}

// Close implements io.Closer. The segment belongs to the view.
func (r viewReader) Close() error { return nil }
