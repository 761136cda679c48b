package mapping

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/chunk"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
)

func random(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// small cuts into chunks of 256 to 4096 bytes.
func small(t testing.TB) *chunk.Cutter {
	c, err := chunk.New(chunk.MinAverage, 0)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func put(t testing.TB, s blob.Store, data []byte) digest.Digest {
	t.Helper()
	d := digest.SHA256.Of(data)
	if err := blob.Put(context.Background(), s, d, data); err != nil {
		t.Fatal(err)
	}
	return d
}

// content returns the bytes of chunks one after the other.
func content(t testing.TB, s blob.Store, m Mapping) (all []byte) {
	t.Helper()
	for _, c := range m.Chunks {
		data, err := blob.Get(context.Background(), s, c)
		if err != nil {
			t.Fatalf("a mapping names %s, which is not there: %v", c, err)
		}
		all = append(all, data...)
	}
	return all
}

// opens counts how often each blob is read.
type opens struct {
	*model.Store
	of   digest.Digest
	seen atomic.Int64
	fail atomic.Int64 // how many of them still fail
}

func (o *opens) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	if d == o.of {
		o.seen.Add(1)
		if o.fail.Add(-1) >= 0 {
			return nil, context.Canceled
		}
	}
	return o.Store.Open(ctx, d)
}

// TestSplit: the chunks are the blob, they are where the cutter cuts, and the second time nothing is read.
func TestSplit(t *testing.T) {
	data := random(100_000, 1)
	for _, f := range digest.Functions {
		s := &opens{Store: model.New(time.Hour), of: f.Of(data)}
		if err := blob.Put(t.Context(), s, s.of, data); err != nil {
			t.Fatal(err)
		}
		x := New(s, s, small(t))
		var first Mapping
		for i := range 3 {
			m, err := x.Split(t.Context(), s.of)
			if err != nil {
				t.Fatal(err)
			}
			if got := content(t, s, m); !bytes.Equal(got, data) || m.Function != FastCDC2020 {
				t.Errorf("%d bytes in %d chunks of function %d, want %d bytes of FastCDC", len(got), len(m.Chunks), m.Function, len(data))
			}
			if i == 0 {
				first = m
			}
			if want := small(t).Cut(data); m.Chunks[0].Size != int64(want) || !slices.Equal(m.Chunks, first.Chunks) {
				t.Errorf("time %d: the first of %d chunks has %d bytes, want %d", i, len(m.Chunks), m.Chunks[0].Size, want)
			}
		}
		if got := s.seen.Load(); got != 2 { // to cut it, and to hold it while the record is written
			t.Errorf("three splits opened the blob %d times, want 2", got)
		}
	}
}

func TestSplitSmall(t *testing.T) {
	s := model.New(time.Hour)
	d := put(t, s, random(4096, 2))
	m, err := New(s, s, small(t)).Split(t.Context(), d)
	if err != nil || !slices.Equal(m.Chunks, []digest.Digest{d}) || m.Function != Unknown {
		t.Errorf("Split = %v, %v, want the blob itself", m, err)
	}
}

func TestSplitAbsent(t *testing.T) {
	s := model.New(0)
	x := New(s, s, small(t))
	data := random(50_000, 3)
	d := put(t, s, data)
	if _, err := x.Split(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	s.Evict()
	for _, absent := range []digest.Digest{d, digest.SHA256.Of([]byte("x")), {Function: d.Function, Hash: d.Hash, Size: d.Size + 1}} {
		if m, err := x.Split(t.Context(), absent); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Split(%s) = %d chunks, %v, want ErrNotFound", absent, len(m.Chunks), err)
		}
	}
	if n := s.Pins(); n > 0 {
		t.Errorf("%d pins are left", n)
	}
}

// TestHole: when chunks went, what is given out names chunks that are there.
func TestHole(t *testing.T) {
	s := model.New(0)
	x := New(s, s, small(t))
	data := random(50_000, 4)
	d := put(t, s, data)
	if _, err := x.Split(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	held, err := s.Open(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	s.Evict() // all but the blob and the record
	m, err := x.Split(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	if got := content(t, s, m); !bytes.Equal(got, data) {
		t.Errorf("the chunks have %d bytes, want %d", len(got), len(data))
	}
}

// damaged gives back other bytes of one blob than were stored.
type damaged struct {
	*model.Store
	of digest.Digest
}

type damagedReader struct{ blob.Reader }

func (r damagedReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.Reader.ReadAt(p, off)
	if n > 0 {
		p[0]++
	}
	return n, err
}

func (s damaged) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	r, err := s.Store.Open(ctx, d)
	if err == nil && d == s.of {
		r = damagedReader{r}
	}
	return r, err
}

// TestSplitDamaged: what was read wrong once is not written down for good.
func TestSplitDamaged(t *testing.T) {
	data := random(50_000, 12)
	s := damaged{model.New(time.Hour), digest.SHA256.Of(data)}
	put(t, s, data)
	if m, err := New(s, s, small(t)).Split(t.Context(), s.of); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("Split = %d chunks, %v, want ErrCorrupt", len(m.Chunks), err)
	}
	m, err := New(s.Store, s.Store, small(t)).Split(t.Context(), s.of)
	if err != nil || !bytes.Equal(content(t, s.Store, m), data) {
		t.Errorf("Split of what reads well = %d chunks, %v, want the blob", len(m.Chunks), err)
	}
}

// TestRecordDamaged: a record that says nothing is made anew.
func TestRecordDamaged(t *testing.T) {
	s := model.New(time.Hour)
	data := random(50_000, 13)
	d := put(t, s, data)
	if err := s.Put(t.Context(), key(d), append(identity(d), "nonsense"...)); err != nil {
		t.Fatal(err)
	}
	m, err := New(s, s, small(t)).Split(t.Context(), d)
	if err != nil || !bytes.Equal(content(t, s, m), data) {
		t.Errorf("Split = %d chunks, %v, want the blob", len(m.Chunks), err)
	}
}

// TestHerd: of many who ask at once one cuts, and when that one fails, another does.
func TestHerd(t *testing.T) {
	data := random(200_000, 5)
	s := &opens{Store: model.New(time.Hour), of: digest.SHA256.Of(data)}
	put(t, s, data)
	s.fail.Store(1)
	x := New(s, s, small(t))
	var all sync.WaitGroup
	var failed atomic.Int64
	for range 20 {
		all.Go(func() {
			if _, err := x.Split(context.Background(), s.of); err != nil {
				failed.Add(1)
			}
		})
	}
	all.Wait()
	if got := s.seen.Load(); got != 3 || failed.Load() != 1 {
		t.Errorf("20 splits opened the blob %d times and %d failed, want 3 and the one that was made to", got, failed.Load())
	}
	if _, free := x.turns.Try(s.of); !free || len(x.busy) > 0 {
		t.Errorf("the turn is free: %v, and %d places are taken", free, len(x.busy))
	}
}

// pieces stores data in n pieces and returns a mapping of them.
func pieces(t testing.TB, s blob.Store, data []byte, n int) Mapping {
	var m Mapping
	for piece := range slices.Chunk(data, (len(data)+n-1)/n) {
		m.Chunks = append(m.Chunks, put(t, s, piece))
	}
	return m
}

// TestSplice: the blob is there, and a split gives the chunks that the client had.
func TestSplice(t *testing.T) {
	for _, present := range []bool{false, true} {
		s := model.New(time.Hour)
		x := New(s, s, small(t))
		data := append(random(30_000, 6), random(30_000, 6)...) // some chunks are there twice
		m := pieces(t, s, data, 4)
		d := digest.SHA256.Of(data)
		if present {
			put(t, s, data)
		}
		for range 2 {
			if err := x.Splice(t.Context(), d, m); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := blob.Get(t.Context(), s, d); err != nil || !bytes.Equal(got, data) {
			t.Errorf("the blob has %d bytes, %v", len(got), err)
		}
		if got, err := x.Split(t.Context(), d); err != nil || !slices.Equal(got.Chunks, m.Chunks) || got.Function != Unknown {
			t.Errorf("Split = %v, %v, want the chunks of the splice", got, err)
		}
		if n := s.Pins(); n > 0 {
			t.Errorf("%d pins are left", n)
		}
	}
}

// TestSpliceMismatch: nobody is believed, whether the blob is there or not, and a refusal leaves nothing.
func TestSpliceMismatch(t *testing.T) {
	for _, present := range []bool{false, true} {
		s := model.New(time.Hour)
		x := New(s, s, small(t))
		data := random(20_000, 7)
		d := digest.SHA256.Of(data)
		m := pieces(t, s, data, 4)
		if present {
			put(t, s, data)
		}
		turned, short := slices.Clone(m.Chunks), m.Chunks[:3]
		slices.Reverse(turned)
		huge := digest.Digest{Function: d.Function, Hash: m.Chunks[0].Hash, Size: 1<<63 - 1}
		last := digest.Digest{Function: d.Function, Hash: m.Chunks[0].Hash, Size: d.Size + 2} // as two of huge are -2 where a sum overflows
		for _, wrong := range [][]digest.Digest{
			turned, short, append(slices.Clone(m.Chunks), m.Chunks[0]), nil, {huge}, {huge, huge, last}, {{Function: digest.BLAKE3, Hash: d.Hash, Size: d.Size}},
		} {
			if err := x.Splice(t.Context(), d, Mapping{Chunks: wrong}); !errors.Is(err, blob.ErrMismatch) {
				t.Errorf("present %v: Splice of %d chunks = %v, want ErrMismatch", present, len(wrong), err)
			}
		}
		if _, err := x.get(t.Context(), d); !errors.Is(err, errUnknown) {
			t.Errorf("a mapping was kept, %v", err)
		}
		if missing, _ := s.Missing(t.Context(), digest.SetOf(d)); (missing.Len() == 0) != present {
			t.Errorf("the blob is there: %v, want %v", missing.Len() == 0, present)
		}
	}
}

func TestSpliceMissing(t *testing.T) {
	s := model.New(time.Hour)
	x := New(s, s, small(t))
	data := random(20_000, 8)
	m := pieces(t, s, data, 4)
	d := digest.SHA256.Of(data)
	empty := model.New(time.Hour)
	put(t, empty, data[:5000])
	if err := New(empty, empty, small(t)).Splice(t.Context(), d, m); !errors.Is(err, blob.ErrNotFound) || errors.As(err, new(*blob.MissingError)) {
		t.Errorf("Splice = %v, want ErrNotFound that is no MissingError", err)
	}
	if err := x.Splice(t.Context(), d, Mapping{Chunks: make([]digest.Digest, MaxChunks+1)}); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("Splice of too many = %v, want ErrInvalid", err)
	}
}

func FuzzDecode(f *testing.F) {
	d := digest.SHA256.Of([]byte("blob"))
	id := identity(d)
	f.Add(append(slices.Clone(id), 1, 0))
	f.Add(append(append(slices.Clone(id), 1, 7, 7), d.Hash[:]...))
	f.Fuzz(func(t *testing.T, value []byte) {
		m, size, err := decode(d.Function, id, value)
		if err != nil {
			if !errors.Is(err, blob.ErrCorrupt) {
				t.Errorf("decode = %v, want ErrCorrupt", err)
			}
			return
		}
		for _, c := range m.Chunks {
			size -= c.Size
		}
		if size != 0 {
			t.Errorf("the chunks differ from the blob by %d bytes", size)
		}
	})
}
