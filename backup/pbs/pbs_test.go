package pbs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/backup/pbs"
	"github.com/sarsen-build/sarsen/backup/pbs/format"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/pbstest"
)

// A kept is a store that keeps.
type kept interface {
	blob.Store
	blob.Keeper
}

// A fixture is a server on a port of its own.
type fixture struct {
	*pbstest.Client // root@pam!all, who may do everything
	server          *pbs.Server
	store           kept
	stop            func()
}

const (
	all    = pbs.Read | pbs.Backup | pbs.Prune
	secret = "a secret with : and %"
)

var access = pbs.Access{Accounts: []pbs.Account{
	{Name: "root@pam!all", Secret: pbs.SecretOf(secret), Grants: []pbs.Grant{{"main", "", all}}},
	{Name: "ann@pbs!laptop", Secret: pbs.SecretOf(secret), Grants: []pbs.Grant{{"main", "", pbs.Backup}}},
	{Name: "ann@pbs", Secret: pbs.SecretOf(secret), Grants: []pbs.Grant{{"main", "", all}}},
	{Name: "bob@pbs!reader", Secret: pbs.SecretOf(secret), Grants: []pbs.Grant{{"main", "team/a", pbs.Read}}},
	{Name: "nobody@pbs!none", Secret: pbs.SecretOf(secret)},
}}

func start(t testing.TB, store kept) *fixture { return startWith(t, store, func(*pbs.Options) {}) }

// startPatient starts a server that waits for what others wrote.
func startPatient(t testing.TB, store kept, patience time.Duration) *fixture {
	return startWith(t, store, func(o *pbs.Options) { o.Datastores[0].Patience = patience })
}

// startWith starts a server with the usual options, of which change may change some.
func startWith(t testing.TB, store kept, change func(*pbs.Options)) *fixture {
	t.Helper()
	id, err := pbs.LoadIdentity(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	o := pbs.Options{Datastores: []pbs.Datastore{{Name: "main", Store: store, Keeper: store}}, Access: access, Identity: id, Zone: time.UTC}
	change(&o)
	if os.Getenv("SARSEN_LOG") != "" {
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	s, err := pbs.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	f := &fixture{server: s, store: store}
	f.Client = &pbstest.Client{Addr: l.Addr().String(), Fingerprint: s.Fingerprint(), Store: "main"}
	f.Auth = token("root@pam!all")
	stopped := false
	f.stop = func() {
		if stopped {
			return
		}
		stopped = true
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown = %v", err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve = %v", err)
		}
	}
	t.Cleanup(f.stop)
	return f
}

func token(name string) string { return "PBSAPIToken=" + name + ":" + secret }

// as returns a client with somebody else's token.
func (f *fixture) as(name string) *pbstest.Client {
	c := *f.Client
	c.Auth = token(name)
	return &c
}

// forgets returns a store whose yes is worth nothing unless something holds.
func forgets() *model.Store { return model.New(0) }

func bytesOf(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 0))
	for i := range b {
		b[i] = byte(r.Uint32() >> 12)
	}
	return b
}

var host = pbstest.Snapshot{Type: "host", ID: "box", Time: 1700000000}

func at(s pbstest.Snapshot, seconds int64) pbstest.Snapshot {
	s.Time += seconds
	return s
}

// begin begins a backup that ends with the test.
func begin(t *testing.T, c *pbstest.Client, s pbstest.Snapshot, key *pbstest.Key) *pbstest.Backup {
	t.Helper()
	b, err := c.Backup(t.Context(), s, key, nil)
	if err != nil {
		t.Fatalf("begin %+v: %v", s, err)
	}
	t.Cleanup(b.Close)
	return b
}

// backUp makes a snapshot of one archive and one blob.
func backUp(t *testing.T, c *pbstest.Client, s pbstest.Snapshot, key *pbstest.Key, data []byte) {
	t.Helper()
	b := begin(t, c, s, key)
	if err := errors.Join(b.Dynamic(t.Context(), "root.pxar.didx", data), b.Blob(t.Context(), "host.conf.blob", data[:100]), b.Finish(t.Context())); err != nil {
		t.Fatalf("backup %+v: %v", s, err)
	}
	b.Close()
}

// restore wants an archive of a snapshot to be data.
func restore(t *testing.T, c *pbstest.Client, s pbstest.Snapshot, key *pbstest.Key, name string, data []byte) {
	t.Helper()
	r, err := c.Restore(t.Context(), s, key)
	if err != nil {
		t.Fatalf("restore %+v: %v", s, err)
	}
	defer r.Close()
	if _, err := r.Manifest(t.Context()); err != nil {
		t.Errorf("manifest of %+v: %v", s, err)
	}
	got, err := r.Archive(t.Context(), name)
	if err != nil {
		t.Fatalf("restore %s of %+v: %v", name, s, err)
	}
	if !bytes.Equal(got, data) {
		t.Errorf("%s of %+v is not what was backed up", name, s)
	}
}

// refused wants an error of the server's with this status, and a text in it.
func refused(t *testing.T, what string, err error, code int, text string) {
	t.Helper()
	if pbstest.Code(err) != code || !strings.Contains(err.Error(), text) {
		t.Errorf("%s = %v, want %d and %q", what, err, code, text)
	}
}

// snapshotsOf returns the times of what is listed, less the first one's.
func snapshotsOf(t *testing.T, c *pbstest.Client, q url.Values) (times []int64) {
	t.Helper()
	var items []struct {
		Time int64 `json:"backup-time"`
	}
	if err := c.Admin(t.Context(), "GET", "snapshots", q, &items); err != nil {
		t.Fatal(err)
	}
	for _, i := range items {
		times = append(times, i.Time-host.Time)
	}
	return times
}

// roots returns the names of all that is kept.
func roots(t *testing.T, k blob.Keeper) (names []string) {
	t.Helper()
	for r, err := range k.Kept(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, r.Name)
	}
	return names
}

// atRest wants no session to hold anything.
func atRest(t *testing.T, f *fixture) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		var held []string
		for _, name := range roots(t, f.store) {
			if strings.HasPrefix(name, "pbs-session/") {
				held = append(held, name)
			}
		}
		pins := 0
		if m, ok := f.store.(*model.Store); ok {
			pins = m.Pins()
		}
		if len(held) == 0 && pins == 0 && f.server.Stats().Sessions == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("sessions still hold %q, %d pins are held", held, pins)
		}
	}
}

func TestBackups(t *testing.T) {
	for _, key := range []*pbstest.Key{nil, pbstest.NewKey([32]byte{1, 2, 3})} {
		name := map[bool]string{true: "Plain", false: "Encrypted"}[key == nil]
		t.Run(name, func(t *testing.T) {
			store := forgets()
			f := start(t, store)
			first, image := bytesOf(1, 300<<10), bytesOf(2, 9<<20)
			b := begin(t, f.Client, host, key)
			if _, err := b.Previous(t.Context(), "root.pxar.didx"); true {
				refused(t, "the first backup's previous", err, 400, "no valid previous backup")
			}
			err := errors.Join(b.Dynamic(t.Context(), "root.pxar.didx", first), b.Fixed(t.Context(), "disk.img.fidx", image, nil), b.Finish(t.Context()))
			if err != nil {
				t.Fatal(err)
			}
			full := b.Sent
			b.Close()
			store.Evict()

			// The second changes a little of each.
			second := append(bytes.Clone(first[:200<<10]), append([]byte("something new"), first[200<<10:]...)...)
			changed := bytes.Clone(image)
			changed[5<<20] ^= 1
			b = begin(t, f.Client, at(host, 10), key)
			if _, err := b.Previous(t.Context(), "root.pxar.didx"); err != nil {
				t.Fatal(err)
			}
			err = errors.Join(b.Dynamic(t.Context(), "root.pxar.didx", second), b.Fixed(t.Context(), "disk.img.fidx", changed, image), b.Finish(t.Context()))
			if err != nil {
				t.Fatal(err)
			}
			if b.Sent > 4 || b.Reused < full/2 {
				t.Errorf("the second backup sent %d chunks and reused %d, the first sent %d", b.Sent, b.Reused, full)
			}
			b.Close()
			atRest(t, f)
			store.Evict()
			restore(t, f.Client, host, key, "root.pxar.didx", first)
			restore(t, f.Client, host, key, "disk.img.fidx", image)
			restore(t, f.Client, at(host, 10), key, "root.pxar.didx", second)
			restore(t, f.Client, at(host, 10), key, "disk.img.fidx", changed)

			// What the first had alone goes with it, and nothing else.
			if err := f.Admin(t.Context(), "DELETE", "snapshots", host.Query(), nil); err != nil {
				t.Fatal(err)
			}
			store.Evict()
			restore(t, f.Client, at(host, 10), key, "root.pxar.didx", second)
			restore(t, f.Client, at(host, 10), key, "disk.img.fidx", changed)
			atRest(t, f)
		})
	}
}

// TestStream backs up what has no size before its end, and an image of unknown size.
func TestStream(t *testing.T) {
	f := start(t, forgets())
	data := bytesOf(3, 5<<20)
	b := begin(t, f.Client, host, nil)
	id, err := b.Open(t.Context(), "fixed_index", map[string]any{"archive-name": "stream.img.fidx"})
	if err != nil {
		t.Fatal(err)
	}
	x := &format.Index{Fixed: true, Size: uint64(len(data)), ChunkSize: format.FixedChunk}
	for _, piece := range [][]byte{data[:format.FixedChunk], data[format.FixedChunk:]} {
		d, err := b.Chunk(t.Context(), "fixed", id, piece)
		if err != nil {
			t.Fatal(err)
		}
		x.Digests = append(x.Digests, d)
	}
	// The last comes first.
	if err := b.Append(t.Context(), "fixed", id, [][32]byte{x.Digests[1], x.Digests[0]}, []uint64{format.FixedChunk, 0}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.CloseIndex(t.Context(), "fixed", id, 2, "stream.img.fidx", x), b.Finish(t.Context())); err != nil {
		t.Fatal(err)
	}
	restore(t, f.Client, host, nil, "stream.img.fidx", data)
}

// TestAborted: a session that breaks off leaves nothing, and the group is free again.
func TestAborted(t *testing.T) {
	store := forgets()
	f := start(t, store)
	b := begin(t, f.Client, host, nil)
	if err := errors.Join(b.Dynamic(t.Context(), "root.pxar.didx", bytesOf(1, 100<<10)), b.Manifest(t.Context())); err != nil {
		t.Fatal(err)
	}
	b.Close()
	atRest(t, f)
	if got := roots(t, store); len(got) != 0 {
		t.Errorf("an aborted session leaves %q", got)
	}
	store.Evict()
	if blobs, _ := store.Counts(); blobs[1] != 0 {
		t.Errorf("an aborted session leaves %d blobs", blobs[1])
	}
	backUp(t, f.Client, host, nil, bytesOf(1, 100<<10))
}

func TestSessionRules(t *testing.T) {
	f := start(t, forgets())
	begin := func(s pbstest.Snapshot, q url.Values) error {
		b, err := f.Backup(t.Context(), s, nil, q)
		if err == nil {
			b.Close()
		}
		return err
	}
	refused(t, "a datastore that is not there", begin(host, url.Values{"store": {"other"}}), 404, "no such datastore")
	refused(t, "a namespace that is not there", begin(pbstest.Snapshot{NS: "a", Type: "vm", ID: "1", Time: 1}, nil), 404, "namespace")
	refused(t, "an ID with a slash", begin(pbstest.Snapshot{Type: "vm", ID: "../1", Time: 1}, nil), 400, "backup-id")
	refused(t, "an unknown type", begin(pbstest.Snapshot{Type: "tape", ID: "1", Time: 1}, nil), 400, "backup-type")
	b, err := f.Backup(t.Context(), host, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, "a second writer of a group", begin(at(host, 5), nil), 400, "another backup")
	refused(t, "nothing to finish", b.Call(t.Context(), "POST", "finish", nil, nil, nil), 400, "valid files")
	id, err := b.Open(t.Context(), "dynamic_index", map[string]any{"archive-name": "a.didx"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Open(t.Context(), "dynamic_index", map[string]any{"archive-name": "a.didx"})
	refused(t, "a second archive of a name", err, 400, "there already")
	_, err = b.Open(t.Context(), "fixed_index", map[string]any{"archive-name": "b.didx", "size": 1})
	refused(t, "a fixed index that says it is dynamic", err, 400, "extension")
	refused(t, "finish with an open writer", b.Finish(t.Context()), 400, "open index writer")
	if _, err := b.Chunk(t.Context(), "dynamic", id, []byte("data")); err != nil {
		t.Fatal(err)
	}
	d := b.Key.Digest([]byte("data"))
	refused(t, "a strange offset", b.Append(t.Context(), "dynamic", id, [][32]byte{d}, []uint64{1}), 400, "strange chunk offset")
	refused(t, "an unknown chunk", b.Append(t.Context(), "dynamic", id, [][32]byte{{1}}, []uint64{0}), 400, "no such chunk")
	if err := b.Append(t.Context(), "dynamic", id, [][32]byte{d}, []uint64{0}); err != nil {
		t.Fatal(err)
	}
	x := &format.Index{Size: 4, Ends: []uint64{4}, Digests: [][32]byte{d}}
	if err := b.CloseIndex(t.Context(), "dynamic", id, 1, "a.didx", x); err != nil {
		t.Fatal(err)
	}
	refused(t, "a second close", b.CloseIndex(t.Context(), "dynamic", id, 1, "a.didx", x), 400, "not registered")
	if err := b.Call(t.Context(), "POST", "finish", nil, nil, nil); err != nil {
		t.Errorf("the session did not survive what was refused: %v", err)
	}
	refused(t, "a call after finish", b.Call(t.Context(), "POST", "finish", nil, nil, nil), 400, "finished")
	b.Close()
	atRest(t, f)
	refused(t, "the same time again", begin(host, nil), 400, "older than last backup")
	refused(t, "an older time", begin(at(host, -1), nil), 400, "older than last backup")
	restore(t, f.Client, host, nil, "a.didx", []byte("data"))
}

// TestWrongChunks: what does not fit its digest, CRC or size is refused and changes nothing.
func TestWrongChunks(t *testing.T) {
	f := start(t, forgets())
	b := begin(t, f.Client, host, nil)
	ctx := t.Context()
	id, err := b.Open(ctx, "dynamic_index", map[string]any{"archive-name": "a.didx"})
	if err != nil {
		t.Fatal(err)
	}
	data := []byte(strings.Repeat("some data ", 1000))
	good, d := format.EncodeBlob(data), (*pbstest.Key)(nil).Digest(data)
	broken := bytes.Clone(good)
	broken[len(broken)-1] ^= 1
	sealed := pbstest.NewKey([32]byte{1}).Encode(bytesOf(1, 1000))
	refused(t, "a wrong digest", b.Upload(ctx, "dynamic", id, [32]byte{1}, len(data), good), 400, "digest is")
	refused(t, "a wrong CRC", b.Upload(ctx, "dynamic", id, d, len(data), broken), 400, "CRC")
	refused(t, "a larger size", b.Upload(ctx, "dynamic", id, d, len(data)+1, good), 400, "declared with")
	refused(t, "a smaller size", b.Upload(ctx, "dynamic", id, d, len(data)-1, good), 400, "zstd")
	refused(t, "no data blob", b.Upload(ctx, "dynamic", id, d, len(data), data), 400, "no data blob begins")
	refused(t, "a short body", b.Upload(ctx, "dynamic", id, d, 1, []byte("x")), 400, "a data blob of 1")
	refused(t, "a size beyond the limit", b.Upload(ctx, "dynamic", id, d, format.MaxChunk+1, good), 400, "at most")
	refused(t, "an encrypted one of another size", b.Upload(ctx, "dynamic", id, [32]byte{2}, 999, sealed), 400, "declared with")
	refused(t, "another writer", b.Upload(ctx, "dynamic", id+1, d, len(data), good), 400, "not registered")
	refused(t, "the other kind of writer", b.Upload(ctx, "fixed", id, d, len(data), good), 400, "not registered")
	if err := b.Upload(ctx, "dynamic", id, d, len(data), good); err != nil {
		t.Fatal(err)
	}
	// Whoever knows a digest can't put encrypted bytes under it, which nobody could verify.
	other := pbstest.NewKey([32]byte{1}).Encode(data)
	refused(t, "an encrypted chunk over a plain one", b.Upload(ctx, "dynamic", id, d, len(data), other), 400, "encryption")
}

// TestFixedRules: chunks of an image are aligned, whole but for the last, and all there.
func TestFixedRules(t *testing.T) {
	f := start(t, forgets())
	b := begin(t, f.Client, host, nil)
	ctx := t.Context()
	id, err := b.Open(ctx, "fixed_index", map[string]any{"archive-name": "a.fidx", "size": format.FixedChunk + 100})
	if err != nil {
		t.Fatal(err)
	}
	whole, err1 := b.Chunk(ctx, "fixed", id, make([]byte, format.FixedChunk))
	last, err2 := b.Chunk(ctx, "fixed", id, make([]byte, 100))
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	long := make([]byte, format.FixedChunk+1)
	refused(t, "a chunk that is too long", b.Upload(ctx, "fixed", id, b.Key.Digest(long), len(long), format.EncodeBlob(long)), 400, "at most")
	add := func(d [32]byte, offset uint64) error {
		return b.Append(ctx, "fixed", id, [][32]byte{d}, []uint64{offset})
	}
	refused(t, "a chunk that is not aligned", add(whole, 1), 400, "not aligned")
	refused(t, "a short chunk amid the image", add(last, 0), 400, "not the last one")
	refused(t, "a chunk behind the image", add(whole, format.FixedChunk), 400, "behind the image")
	if err := add(last, format.FixedChunk); err != nil {
		t.Fatal(err)
	}
	x := &format.Index{Fixed: true, Size: format.FixedChunk + 100, ChunkSize: format.FixedChunk, Digests: [][32]byte{{}, last}}
	refused(t, "an image with a hole", b.CloseIndex(ctx, "fixed", id, 1, "a.fidx", x), 400, "missing")
	_, err = b.Open(ctx, "fixed_index", map[string]any{"archive-name": "c.fidx", "size": 5, "reuse-csum": "00"})
	refused(t, "reuse without a previous one", err, 400, "no valid previous")
}

// TestParallel: one session takes the same chunks from many calls at once, beside other sessions that do the same.
func TestParallel(t *testing.T) {
	store := forgets()
	f := start(t, store)
	data := bytesOf(1, 300<<10)
	pieces := pbstest.Cut(data)
	var wait sync.WaitGroup
	for n := range 3 {
		s := pbstest.Snapshot{Type: "vm", ID: fmt.Sprint(n), Time: 1}
		b := begin(t, f.Client, s, nil)
		id, err := b.Open(t.Context(), "dynamic_index", map[string]any{"archive-name": "a.didx"})
		if err != nil {
			t.Fatal(err)
		}
		wait.Go(func() {
			var calls sync.WaitGroup
			for w := range 8 {
				calls.Go(func() {
					for i := range pieces {
						p := pieces[(i+w)%len(pieces)]
						if err := b.Upload(t.Context(), "dynamic", id, b.Key.Digest(p), len(p), format.EncodeBlob(p)); err != nil {
							t.Error(err)
						}
					}
				})
			}
			calls.Wait()
			x := &format.Index{}
			var offsets []uint64
			for _, p := range pieces {
				offsets = append(offsets, x.Size)
				x.Size += uint64(len(p))
				x.Ends, x.Digests = append(x.Ends, x.Size), append(x.Digests, b.Key.Digest(p))
			}
			if err := errors.Join(b.Append(t.Context(), "dynamic", id, x.Digests, offsets), b.CloseIndex(t.Context(), "dynamic", id, len(pieces), "a.didx", x), b.Finish(t.Context())); err != nil {
				t.Error(err)
			}
		})
		defer restore(t, f.Client, s, nil, "a.didx", data)
	}
	done := make(chan bool)
	go func() { wait.Wait(); close(done) }()
	for evicting := true; evicting; {
		select {
		case <-done:
			evicting = false
		default:
			store.Evict()
			time.Sleep(time.Millisecond)
		}
	}
	store.Evict()
}

// A full store has no room for roots while it is set.
type full struct {
	*model.Store
	is atomic.Bool
}

// Keep implements blob.Keeper.
func (f *full) Keep(ctx context.Context, name string, value []byte, blobs digest.Set) error {
	if f.is.Load() {
		return fmt.Errorf("%w: raise --max-size", blob.ErrFull)
	}
	return f.Store.Keep(ctx, name, value, blobs)
}

// KeepIf implements blob.Keeper.
func (f *full) KeepIf(ctx context.Context, name string, was *blob.Root, value []byte, blobs digest.Set) error {
	if f.is.Load() {
		return fmt.Errorf("%w: raise --max-size", blob.ErrFull)
	}
	return f.Store.KeepIf(ctx, name, was, value, blobs)
}

// TestFull: a backup that does not fit is refused with what to do, and can be finished when there is room.
func TestFull(t *testing.T) {
	store := &full{Store: forgets()}
	f := start(t, store)
	data := bytesOf(1, 50<<10)
	b := begin(t, f.Client, host, nil)
	if err := b.Dynamic(t.Context(), "a.didx", data); err != nil {
		t.Fatal(err)
	}
	store.is.Store(true)
	refused(t, "finish of what does not fit", b.Finish(t.Context()), 507, "raise --max-size")
	store.is.Store(false)
	if err := b.Call(t.Context(), "POST", "finish", nil, nil, nil); err != nil {
		t.Errorf("finish again: %v", err)
	}
	b.Close()
	restore(t, f.Client, host, nil, "a.didx", data)
	atRest(t, &fixture{server: f.server, store: store.Store})
}
