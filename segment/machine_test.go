package segment

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// A sample is a blob that the machine may put.
type sample struct {
	d    digest.Digest
	data []byte
}

// GoString keeps rapid's report of what it drew short.
func (s sample) GoString() string { return s.d.String() }

// A name is a digest that rapid reports in short.
type name struct{ digest.Digest }

func (n name) GoString() string { return n.String() }

// samples are more than a cramped ring holds, of sizes on both sides of every limit in it.
var samples = sync.OnceValue(func() (list []sample) {
	for seed := range uint64(3) {
		for i, n := range []int{1, 300, 512, 513, 3000, 15000, 16300, 40000, 100000} {
			data := storetest.Bytes(1000+16*seed+uint64(i), n)
			list = append(list, sample{digest.Functions[int(seed)%len(digest.Functions)].Of(data), data})
		}
	}
	return list
})

// A machine makes the same calls to a ring and to the model, which says what the ring may answer: it
// may have forgotten what is neither leased nor pinned, and nothing else.
type machine struct {
	fsys    *vfs.Mem
	ring    *Ring
	model   *model.Store
	readers []openBlob
	uploads []openUpload
	version int               // of the last record that was put
	seen    map[uint64]string // the value of each incarnation of a record
	looked  []look
	used    time.Time // when something was last asked for
}

type openBlob struct {
	sample
	ring, model blob.Reader
}

type openUpload struct {
	sample
	ring, model blob.Writer
	rest        []byte
}

// A look is a record that a Get returned.
type look struct {
	key byte
	blob.Record
}

func (l look) GoString() string { return fmt.Sprintf("%.20q of record %d", l.Value, l.key) }

// TestMachine runs random calls with rapid. How often and how long: -rapid.checks and -rapid.steps.
func TestMachine(t *testing.T) { rapid.Check(t, runMachine) }

// FuzzMachine is the same with calls that the fuzzer chooses, of which it gets to a few hundred.
func FuzzMachine(f *testing.F) {
	run := rapid.MakeFuzz(runMachine)
	for seed := range uint64(8) {
		f.Add(storetest.Bytes(seed, 8<<10))
	}
	f.Fuzz(func(t *testing.T, draws []byte) { run(t, draws[:min(len(draws), 16<<10)]) })
}

func runMachine(t *rapid.T) {
	rapid.SyncTest(t, func(t *rapid.T) {
		m := &machine{fsys: &vfs.Mem{}, model: model.New(cramped.Lease), seen: map[uint64]string{}}
		m.open(t)
		defer m.abandon()
		for range 3 { // longer runs than rapid's default, so that rings turn round
			t.Repeat(map[string]func(*rapid.T){
				"":             m.check,
				"put":          m.put,
				"put all":      m.putAll,
				"begin upload": m.begin,
				"write upload": m.write,
				"end upload":   m.end,
				"missing":      m.missing,
				"missing one":  m.missingOne,
				"open":         m.openOne,
				"read":         m.read,
				"close reader": m.closeReader,
				"get all":      m.getAll,
				"put record":   m.putRecord,
				"get record":   m.getRecord,
				"drop record":  m.dropRecord,
				"keep":         m.keep,
				"release":      m.release,
				"sleep":        m.sleep,
				"evict":        func(*rapid.T) { m.ring.evictAll() },
				"rotate":       m.rotate,
				"restart":      m.restart,
			})
			m.audit(t)
		}
	})
}

func (m *machine) open(t *rapid.T) {
	var err error
	if m.ring, err = Open(context.Background(), m.fsys, "ring", cramped); err != nil {
		t.Fatalf("Open = %v", err)
	}
	m.used = time.Now()
}

// abandon ends the process, so that nothing is left in the bubble.
func (m *machine) abandon() {
	m.closeAll()
	_ = m.ring.Close()
}

func (m *machine) closeAll() {
	for _, r := range m.readers {
		_, _ = r.ring.Close(), r.model.Close()
	}
	for _, u := range m.uploads {
		_, _ = u.ring.Close(), u.model.Close()
	}
	m.readers, m.uploads = nil, nil
}

// check is run after every step.
func (m *machine) check(t *rapid.T) {
	synctest.Wait()
	s := m.ring.Stats()
	blobs, records := m.model.Counts()
	if s.Blobs < blobs[0] || s.Blobs > blobs[1] {
		t.Errorf("the ring has %d blobs, want %d to %d", s.Blobs, blobs[0], blobs[1])
	}
	if s.Records < records[0] || s.Records > records[1] {
		t.Errorf("the ring has %d records, want %d to %d", s.Records, records[0], records[1])
	}
	if s.UsedBytes > s.MaxBytes {
		t.Errorf("%d bytes are used of %d", s.UsedBytes, s.MaxBytes)
	}
	if len(m.readers)+len(m.uploads) > 0 || m.litter() {
		return
	}
	if err := m.ring.leaks(m.fsys); err != nil {
		t.Errorf("at rest: %v", err)
	}
}

// litter reports whether there is an empty file: where a full ring makes no segment at start-up, the
// highest name stays without its bytes, so that it is not used again.
func (m *machine) litter() bool {
	infos, _ := m.fsys.List("ring") // never fails
	return slices.ContainsFunc(infos, func(i vfs.Info) bool { return i.Size == 0 })
}

// audit closes what is open, evicts all that may go, and looks whether all that must be there is.
func (m *machine) audit(t *rapid.T) {
	m.closeAll()
	m.ring.evictAll()
	m.check(t)
	for _, s := range samples() {
		m.get(t, s.d)
	}
	for key := range byte(records) {
		m.look(t, key)
	}
	for _, name := range rootNames {
		m.lookRoot(t, name)
	}
}

// settle compares whether d was found with what the model allows, and tells it what is gone.
func (m *machine) settle(t *rapid.T, call string, d digest.Digest, found bool) {
	m.used = time.Now()
	switch p := m.model.Presence(d); {
	case p == model.MustNot && found, p == model.Must && !found:
		t.Fatalf("%s of %v: found is %v, and it %v be there", call, d, found, p)
	case !found:
		m.model.Forget(d)
	}
}

// full reports whether err is ErrFull, and complains if nothing stands in the way of eviction.
func (m *machine) full(t *rapid.T, err error) bool {
	if !errors.Is(err, blob.ErrFull) {
		return false
	}
	if len(m.readers)+len(m.uploads)+m.ring.roots.len() == 0 && time.Since(m.used) > 2*cramped.Lease {
		t.Fatalf("nothing was asked for since %v, and yet: %v", time.Since(m.used), err)
	}
	return true
}

// alike complains unless the two answers are of one kind.
func alike(t *rapid.T, call string, got, want error) {
	for _, kind := range []error{nil, blob.ErrMismatch, blob.ErrNotFound, blob.ErrInvalid, blob.ErrClosed} {
		if kind == nil && got == nil && want == nil || kind != nil && errors.Is(got, kind) && errors.Is(want, kind) {
			return
		}
	}
	t.Fatalf("%s = %v, want %v", call, got, want)
}

var aSample = rapid.Custom(func(t *rapid.T) sample {
	list := samples()
	return list[rapid.IntRange(0, len(list)-1).Draw(t, "sample")]
})

// send uploads data as d in parts, and commits it unless it is to be abandoned.
func send(s blob.Store, d digest.Digest, data []byte, parts int, commit bool) error {
	w, err := s.Create(context.Background(), d)
	if err != nil {
		return err
	}
	defer w.Close()
	for part := range slices.Chunk(data, max((len(data)+parts-1)/parts, 1)) {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	if !commit {
		return nil
	}
	return w.Commit()
}

func (m *machine) put(t *rapid.T) {
	s := aSample.Draw(t, "blob")
	parts := rapid.IntRange(1, 3).Draw(t, "parts")
	d, data, commit := s.d, s.data, true
	switch rapid.SampledFrom([]string{"right", "flipped", "short", "long", "resized", "abandoned"}).Draw(t, "how") {
	case "flipped":
		data = flipped(t, data)
	case "short":
		data = data[:len(data)-1]
	case "long":
		data = append(bytes.Clone(data), 0)
	case "resized":
		d.Size += rapid.SampledFrom([]int64{-1, 1}).Draw(t, "by")
	case "abandoned":
		commit = false
	}
	err := send(m.ring, d, data, parts, commit)
	if !m.full(t, err) {
		alike(t, "upload", err, send(m.model, d, data, parts, commit))
		m.used = time.Now()
	}
}

func flipped(t *rapid.T, data []byte) []byte {
	data = bytes.Clone(data)
	data[rapid.IntRange(0, len(data)-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
	return data
}

func (m *machine) putAll(t *rapid.T) {
	var ds []digest.Digest
	var data [][]byte
	for _, s := range rapid.SliceOfN(aSample, 1, 6).Draw(t, "blobs") {
		if rapid.IntRange(0, 5).Draw(t, "lie") == 5 {
			s.data = flipped(t, s.data)
		}
		ds, data = append(ds, s.d), append(data, s.data)
	}
	for i, err := range m.ring.PutAll(context.Background(), ds, data) {
		if !m.full(t, err) {
			alike(t, "PutAll", err, blob.Put(context.Background(), m.model, ds[i], data[i]))
		}
	}
	m.used = time.Now()
}

func (m *machine) begin(t *rapid.T) {
	if len(m.uploads) > 3 {
		t.Skip("enough are open")
	}
	s := aSample.Draw(t, "blob")
	w, err := m.ring.Create(context.Background(), s.d)
	if m.full(t, err) {
		return
	}
	other, want := m.model.Create(context.Background(), s.d)
	alike(t, "Create", err, want)
	m.uploads = append(m.uploads, openUpload{s, w, other, s.data})
}

func (m *machine) write(t *rapid.T) {
	u := &m.uploads[m.upload(t)]
	n := len(u.rest)
	if rapid.IntRange(0, 3).Draw(t, "part") == 3 {
		n = rapid.IntRange(0, n).Draw(t, "bytes")
	}
	if _, err := u.ring.Write(u.rest[:n]); errors.Is(err, blob.ErrAborted) {
		return // the upload is of no use any more; its end will say so too
	} else if err != nil {
		t.Fatalf("Write = %v", err)
	}
	if _, err := u.model.Write(u.rest[:n]); err != nil {
		t.Fatalf("model: Write = %v", err)
	}
	u.rest = u.rest[n:]
}

// upload draws an open one, by its place.
func (m *machine) upload(t *rapid.T) int {
	if len(m.uploads) == 0 {
		t.Skip("none is open")
	}
	return rapid.IntRange(0, len(m.uploads)-1).Draw(t, "upload")
}

func (m *machine) end(t *rapid.T) {
	i := m.upload(t)
	u := m.uploads[i]
	m.uploads = slices.Delete(m.uploads, i, i+1)
	defer u.model.Close()
	defer u.ring.Close()
	m.used = time.Now()
	if rapid.Bool().Draw(t, "commit") {
		err := u.ring.Commit()
		if m.full(t, err) || errors.Is(err, blob.ErrAborted) {
			return
		}
		alike(t, "Commit", err, u.model.Commit())
	}
}

// aDigest is of a sample, perhaps with another size, or of no bytes.
var aDigest = rapid.Custom(func(t *rapid.T) name {
	d := aSample.Draw(t, "blob").d
	switch rapid.IntRange(0, 11).Draw(t, "variant") {
	case 9:
		d.Size++
	case 10:
		d.Size = digest.AnySize
	case 11:
		d = d.Function.Empty()
	}
	return name{d}
})

func (m *machine) missing(t *rapid.T) {
	var ds digest.Set
	for _, n := range rapid.SliceOfN(aDigest, 1, 8).Draw(t, "digests") {
		ds.Add(n.Digest)
	}
	m.ask(t, ds)
}

func (m *machine) missingOne(t *rapid.T) { m.ask(t, digest.SetOf(aDigest.Draw(t, "digest").Digest)) }

func (m *machine) ask(t *rapid.T, ds digest.Set) {
	got, err := m.ring.Missing(context.Background(), ds)
	if err != nil {
		t.Fatalf("Missing = %v", err)
	}
	for _, d := range ds.List() {
		m.settle(t, "Missing", d, !got.Has(d))
	}
	if want, _ := m.model.Missing(context.Background(), ds); !slices.Equal(got.List(), want.List()) {
		t.Fatalf("Missing = %v, want %v", got.List(), want.List())
	}
}

func (m *machine) openOne(t *rapid.T) {
	if len(m.readers) > 3 {
		t.Skip("enough are open")
	}
	s := aSample.Draw(t, "blob")
	d := s.d
	if rapid.IntRange(0, 4).Draw(t, "any size") == 4 {
		d.Size = digest.AnySize
	}
	if r, other := m.reader(t, d); r != nil {
		m.readers = append(m.readers, openBlob{s, r, other})
	}
}

// reader opens d in both, or in none.
func (m *machine) reader(t *rapid.T, d digest.Digest) (r, other blob.Reader) {
	r, err := m.ring.Open(context.Background(), d)
	if err != nil && !errors.Is(err, blob.ErrNotFound) {
		t.Fatalf("Open of %v = %v", d, err)
	}
	m.settle(t, "Open", d, err == nil)
	if err != nil {
		return nil, nil
	}
	other, err = m.model.Open(context.Background(), d)
	if err != nil || r.Size() != other.Size() {
		t.Fatalf("Open of %v gives %d bytes, in the model: %v", d, r.Size(), err)
	}
	return r, other
}

func (m *machine) read(t *rapid.T) {
	if len(m.readers) == 0 {
		t.Skip("none is open")
	}
	r := rapid.SampledFrom(m.readers).Draw(t, "reader")
	off := rapid.IntRange(0, len(r.data)+2).Draw(t, "offset")
	got := make([]byte, rapid.IntRange(0, len(r.data)+2).Draw(t, "length"))
	want := make([]byte, len(got))
	n, err := r.ring.ReadAt(got, int64(off))
	wantN, wantErr := r.model.ReadAt(want, int64(off))
	if n != wantN || err != wantErr || !bytes.Equal(got[:n], want[:n]) {
		t.Fatalf("ReadAt of %d bytes at %d of %v = %d, %v, want %d, %v and its bytes", len(got), off, r.d, n, err, wantN, wantErr)
	}
}

func (m *machine) closeReader(t *rapid.T) {
	if len(m.readers) == 0 {
		t.Skip("none is open")
	}
	i := rapid.IntRange(0, len(m.readers)-1).Draw(t, "reader")
	if err := errors.Join(m.readers[i].ring.Close(), m.readers[i].model.Close()); err != nil {
		t.Fatalf("Close of a reader = %v", err)
	}
	m.readers = slices.Delete(m.readers, i, i+1)
}

// get reads all of d.
func (m *machine) get(t *rapid.T, d digest.Digest) {
	r, other := m.reader(t, d)
	if r == nil {
		return
	}
	defer other.Close()
	defer r.Close()
	got, want := make([]byte, r.Size()), make([]byte, other.Size())
	_, err := r.ReadAt(got, 0)
	if _, _ = other.ReadAt(want, 0); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("reading %v: %v, and the bytes are the blob's: %v", d, err, bytes.Equal(got, want))
	}
}

func (m *machine) getAll(t *rapid.T) {
	var ds []digest.Digest
	for _, n := range rapid.SliceOfN(aDigest, 1, 6).Draw(t, "digests") {
		ds = append(ds, n.Digest)
	}
	data, errs := m.ring.GetAll(context.Background(), ds)
	for i, d := range ds {
		if errs[i] != nil && !errors.Is(errs[i], blob.ErrNotFound) || (errs[i] == nil) != (data[i] != nil) {
			t.Fatalf("GetAll of %v = %d bytes, %v", d, len(data[i]), errs[i])
		}
		m.settle(t, "GetAll", d, errs[i] == nil)
	}
	want, wantErrs := m.model.GetAll(context.Background(), ds)
	for i, d := range ds {
		if alike(t, "GetAll", errs[i], wantErrs[i]); !bytes.Equal(data[i], want[i]) {
			t.Fatalf("GetAll of %v has other bytes than the blob's", d)
		}
	}
}

// records is how many keys of records there are.
const records = 3

var aKey = rapid.ByteRange(0, records-1)

func (m *machine) putRecord(t *rapid.T) {
	key := [32]byte{aKey.Draw(t, "key")}
	m.version++
	value := fmt.Appendf(nil, "version %d of %d ", m.version, key[0])
	value = append(value, make([]byte, rapid.SampledFrom([]int{0, 400, 15000}).Draw(t, "more"))...)
	err := m.ring.Put(context.Background(), key, value)
	if !m.full(t, err) {
		alike(t, "Put of a record", err, m.model.Put(context.Background(), key, value))
		m.used = time.Now()
		m.look(t, key[0])
	}
}

func (m *machine) getRecord(t *rapid.T) {
	if rec, ok := m.look(t, aKey.Draw(t, "key")); ok {
		m.looked = append(m.looked, rec)
	}
}

// look gets a record, if it is there, and compares it with the model's.
func (m *machine) look(t *rapid.T, key byte) (look, bool) {
	m.used = time.Now()
	k := [32]byte{key}
	rec, err := m.ring.Get(context.Background(), k)
	if err != nil && !errors.Is(err, blob.ErrNotFound) {
		t.Fatalf("Get of record %d = %v", key, err)
	}
	if p := m.model.RecordPresence(k); p == model.MustNot && err == nil || p == model.Must && err != nil {
		t.Fatalf("Get of record %d = %.20q, %v, and it %v be there", key, rec.Value, err, p)
	}
	if err != nil {
		m.model.ForgetRecord(k)
		return look{}, false
	}
	if want, _ := m.model.Get(context.Background(), k); !bytes.Equal(rec.Value, want.Value) {
		t.Fatalf("Get of record %d = %.20q, want %.20q", key, rec.Value, want.Value)
	}
	if value := string(rec.Value); cmp.Or(m.seen[rec.Incarnation], value) != value {
		t.Fatalf("incarnation %d is %.20q, and %.20q before", rec.Incarnation, value, m.seen[rec.Incarnation])
	}
	m.seen[rec.Incarnation] = string(rec.Value)
	return look{key, rec}, true
}

// dropRecord drops what a Get has returned. Only that goes: a newer value stays, and so may the same
// value where the ring has moved it.
func (m *machine) dropRecord(t *rapid.T) {
	if len(m.looked) == 0 {
		t.Skip("none was looked at")
	}
	seen := rapid.SampledFrom(m.looked).Draw(t, "record")
	key := [32]byte{seen.key}
	if err := m.ring.Drop(context.Background(), key, seen.Incarnation); err != nil {
		t.Fatalf("Drop = %v", err)
	}
	left, err := m.ring.Get(context.Background(), key)
	switch {
	case err == nil && left.Incarnation == seen.Incarnation:
		t.Fatalf("Drop left incarnation %d of record %d", seen.Incarnation, seen.key)
	case err != nil && m.model.RecordPresence(key) == model.May:
		m.model.ForgetRecord(key) // it was evicted; to get it from the model would lease it there
	case err != nil:
		if want, _ := m.model.Get(context.Background(), key); bytes.Equal(want.Value, seen.Value) {
			_ = m.model.Drop(context.Background(), key, want.Incarnation) // never fails
		}
	}
	m.look(t, seen.key)
}

func (m *machine) sleep(t *rapid.T) {
	const l = time.Hour
	time.Sleep(rapid.SampledFrom([]time.Duration{1, time.Second, l / 8, l / 4, l / 2, l - 1, l, l + 1, 5 * l / 4, 2*l + 1, 3 * l}).Draw(t, "time"))
}

func (m *machine) rotate(t *rapid.T) {
	m.ring.turn <- struct{}{}
	defer func() { <-m.ring.turn }()
	if err := m.ring.rotate(0, false); !m.full(t, err) && err != nil {
		t.Fatalf("rotate = %v", err)
	}
}

// restart ends the process and starts another on what it leaves.
func (m *machine) restart(t *rapid.T) {
	how := rapid.SampledFrom([]string{"close", "kill", "power cut"}).Draw(t, "end")
	switch how {
	case "close":
		if err := m.ring.Close(); err != nil {
			t.Fatalf("Close = %v", err)
		}
		for _, u := range m.uploads {
			if err := u.ring.Commit(); !errors.Is(err, blob.ErrClosed) && (len(u.rest) == 0 || !errors.Is(err, blob.ErrMismatch)) {
				t.Fatalf("Commit after Close = %v, want ErrClosed", err)
			}
		}
		for _, r := range m.readers { // readable until they are closed
			got := make([]byte, len(r.data))
			if _, err := r.ring.ReadAt(got, 0); err != nil || !bytes.Equal(got, r.data) {
				t.Fatalf("reading an open blob after Close: %v", err)
			}
		}
		m.closeAll()
	case "kill", "power cut":
		image := m.fsys.Clone()
		if how == "power cut" {
			image = m.fsys.PowerCut()
		}
		m.abandon()
		m.fsys = image
	}
	m.model.Restart(how == "power cut")
	m.open(t)
}
