package asset

import (
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
)

// put stores text and returns its digest.
func put(t testing.TB, s blob.Store, text string) digest.Digest {
	t.Helper()
	d := digest.SHA256.Of([]byte(text))
	if err := blob.Put(context.Background(), s, d, []byte(text)); err != nil {
		t.Fatal(err)
	}
	return d
}

// tree stores a directory with a file, and a directory below it with another. It returns the digest of
// the root and of everything that is below it.
func tree(t testing.TB, s blob.Store, text string) (root digest.Digest, below []digest.Digest) {
	t.Helper()
	onWire := func(d digest.Digest) *repb.Digest { return &repb.Digest{Hash: d.Hex(), SizeBytes: d.Size} }
	directory := func(m *repb.Directory) digest.Digest {
		data, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return put(t, s, string(data))
	}
	leaf := put(t, s, text+" in the leaf")
	branch := directory(&repb.Directory{Files: []*repb.FileNode{{Name: "leaf", Digest: onWire(leaf)}}})
	file := put(t, s, text+" in the root")
	root = directory(&repb.Directory{
		Files:       []*repb.FileNode{{Name: "file", Digest: onWire(file)}},
		Directories: []*repb.DirectoryNode{{Name: "branch", Digest: onWire(branch)}},
	})
	return root, []digest.Digest{leaf, branch, file}
}

func push(t testing.TB, x *Index, n Name, a Asset, uris ...string) {
	t.Helper()
	if err := x.Push(context.Background(), n, uris, a); err != nil {
		t.Fatal(err)
	}
}

// wantFetch fetches, and wants d under uri.
func wantFetch(t testing.TB, x *Index, n Name, uri string, d digest.Digest, uris ...string) {
	t.Helper()
	got, a, err := x.Fetch(context.Background(), n, uris, time.Time{})
	if err != nil || got != uri || a.Digest != d {
		t.Errorf("Fetch of %q: got %v under %q, %v, want %v under %q", uris, a.Digest, got, err, d, uri)
	}
}

// wantNone fetches, and wants to be told why there is nothing.
func wantNone(t testing.TB, x *Index, n Name, oldest time.Time, why string, uris ...string) {
	t.Helper()
	_, a, err := x.Fetch(context.Background(), n, uris, oldest)
	if !errors.Is(err, blob.ErrNotFound) || !strings.Contains(err.Error(), why) {
		t.Errorf("Fetch of %q: got %v, %v, want ErrNotFound with %q in it", uris, a.Digest, err, why)
	}
}

func aName(qualifiers ...string) Name {
	n := Name{Instance: "main", Function: digest.SHA256, Kind: Blob}
	for i := 0; i < len(qualifiers); i += 2 {
		n.Qualifiers = append(n.Qualifiers, Qualifier{qualifiers[i], qualifiers[i+1]})
	}
	return n
}

func TestNames(t *testing.T) {
	store := model.New(time.Hour)
	x := New(store, store)
	n := aName("branch", "main", "directory", "src")
	wantNone(t, x, n, time.Time{}, "nothing is downloaded", "urn:a")
	d := put(t, store, "pushed")
	push(t, x, n, Asset{Digest: d}, "urn:a", "urn:b")
	wantFetch(t, x, n, "urn:a", d, "urn:a")
	wantFetch(t, x, n, "urn:b", d, "urn:other", "urn:b")
	wantFetch(t, x, aName("directory", "src", "branch", "main"), "urn:a", d, "urn:a")

	other := func(change func(*Name)) Name {
		o := n
		change(&o)
		return o
	}
	for what, o := range map[string]Name{
		"no qualifiers":      aName(),
		"fewer qualifiers":   aName("branch", "main"),
		"more qualifiers":    aName("branch", "main", "directory", "src", "commit", "1"),
		"another value":      aName("branch", "next", "directory", "src"),
		"parts run together": aName("branch", "maindirectory", "src", ""),
		"instance":           other(func(o *Name) { o.Instance = "other" }),
		"function":           other(func(o *Name) { o.Function = digest.BLAKE3 }),
		"kind":               other(func(o *Name) { o.Kind = Directory }),
	} {
		t.Run(what, func(t *testing.T) { wantNone(t, x, o, time.Time{}, "nothing is downloaded", "urn:a", "urn:b") })
	}
}

func TestNewestWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := model.New(time.Hour)
		x := New(store, store)
		first, second := put(t, store, "first"), put(t, store, "second")
		push(t, x, aName(), Asset{Digest: first}, "urn:a", "urn:b")
		time.Sleep(time.Second)
		between := time.Now()
		push(t, x, aName(), Asset{Digest: second}, "urn:b")
		wantFetch(t, x, aName(), "urn:a", first, "urn:a")
		wantFetch(t, x, aName(), "urn:b", second, "urn:b")
		wantFetch(t, x, aName(), "urn:b", second, "urn:a", "urn:b")

		// What is older than the client accepts is not there for it.
		wantNone(t, x, aName(), between, "", "urn:a")
		if _, a, err := x.Fetch(t.Context(), aName(), []string{"urn:a", "urn:b"}, between); err != nil || a.Digest != second || !a.Pushed.Equal(between) {
			t.Errorf("Fetch of what is new enough: got %v pushed at %v, %v, want %v at %v", a.Digest, a.Pushed, err, second, between)
		}
	})
}

func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := model.New(time.Hour)
		x := New(store, store)
		d := put(t, store, "pushed")
		end := time.Now().Add(time.Minute)
		push(t, x, aName(), Asset{Digest: d, Expires: end}, "urn:a")
		time.Sleep(time.Minute - 1)
		wantFetch(t, x, aName(), "urn:a", d, "urn:a")
		time.Sleep(time.Nanosecond)
		wantNone(t, x, aName(), time.Time{}, "", "urn:a")

		// Another push alters the time, also to one that is past.
		push(t, x, aName(), Asset{Digest: d, Expires: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)}, "urn:a")
		time.Sleep(24 * time.Hour)
		wantFetch(t, x, aName(), "urn:a", d, "urn:a")
		push(t, x, aName(), Asset{Digest: d, Expires: time.Unix(0, 0)}, "urn:a")
		wantNone(t, x, aName(), time.Time{}, "", "urn:a")
	})
}

// without is a store in which some blobs are absent.
type without struct {
	*model.Store
	gone []digest.Digest
}

func (w *without) Missing(ctx context.Context, ds digest.Set) (digest.Set, error) {
	missing, err := w.Store.Missing(ctx, ds)
	for _, d := range w.gone {
		if ds.Has(d) {
			missing.Add(d)
		}
	}
	return missing, err
}

func (w *without) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	for _, gone := range w.gone {
		if d.Key() == gone.Key() {
			return nil, blob.ErrNotFound
		}
	}
	return w.Store.Open(ctx, d)
}

// TestComplete takes away each blob that an asset needs, one at a time: it can neither be fetched nor pushed,
// an older one of another URI is served in its place, and what was incomplete is dropped.
func TestComplete(t *testing.T) {
	base := model.New(time.Hour)
	root, below := tree(t, base, "root")
	referred, belowReferred := tree(t, base, "referred")
	blobs := []digest.Digest{put(t, base, "a reference"), put(t, base, "another")}
	a := Asset{Digest: root, References: action.References{Function: digest.SHA256, Blobs: blobs, Directories: []digest.Digest{referred}}}
	older, _ := tree(t, base, "older")
	n := aName()
	n.Kind = Directory

	needs := slices.Concat([]digest.Digest{root, referred}, below, belowReferred, blobs)
	for _, gone := range needs {
		store := &without{Store: base}
		x := New(store, store)
		push(t, x, n, Asset{Digest: older}, "urn:older")
		push(t, x, n, a, "urn:a")
		wantFetch(t, x, n, "urn:a", root, "urn:older", "urn:a")
		store.gone = []digest.Digest{gone}
		wantFetch(t, x, n, "urn:older", older, "urn:older", "urn:a")
		store.gone = nil
		wantNone(t, x, n, time.Time{}, "", "urn:a")

		store.gone = []digest.Digest{gone}
		err := x.Push(t.Context(), n, []string{"urn:new"}, a)
		incomplete := (*blob.MissingError)(nil)
		if !errors.As(err, &incomplete) || !slices.Equal(incomplete.Blobs, []digest.Digest{gone}) {
			t.Errorf("Push without %v = %v, want a MissingError that names it", gone, err)
		}
		store.gone = nil
		wantNone(t, x, n, time.Time{}, "", "urn:new")
	}
}

// interrupted is a store in which something else happens once, right after a blob was found missing.
type interrupted struct {
	*without
	by func()
}

func (i *interrupted) Missing(ctx context.Context, ds digest.Set) (digest.Set, error) {
	missing, err := i.without.Missing(ctx, ds)
	if by := i.by; by != nil && missing.Len() > 0 {
		i.by = nil
		by()
	}
	return missing, err
}

// TestPushedMeanwhile: what is pushed while another call finds that what was there before is incomplete stays.
func TestPushedMeanwhile(t *testing.T) {
	store := &interrupted{without: &without{Store: model.New(time.Hour)}}
	x, n := New(store, store), aName()
	older, newer := put(t, store, "older"), put(t, store, "newer")
	push(t, x, n, Asset{Digest: older}, "urn:a")
	store.gone = []digest.Digest{older}
	store.by = func() { push(t, x, n, Asset{Digest: newer}, "urn:a") }
	wantNone(t, x, n, time.Time{}, "missing blob", "urn:a")
	wantFetch(t, x, n, "urn:a", newer, "urn:a")
}

// TestLeased lets everything else be evicted after a fetch: nothing of the asset goes.
func TestLeased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := model.New(time.Hour)
		x := New(store, store)
		n := aName()
		n.Kind = Directory
		root, below := tree(t, store, "root")
		referred := put(t, store, "a reference")
		push(t, x, n, Asset{Digest: root, References: action.References{Blobs: []digest.Digest{referred}}}, "urn:a")
		time.Sleep(time.Hour - 1)
		wantFetch(t, x, n, "urn:a", root, "urn:a")
		time.Sleep(time.Hour - 1)
		store.Evict()
		for _, d := range append(below, root, referred) {
			if _, err := blob.Get(t.Context(), store, d); err != nil {
				t.Errorf("an hour after the fetch: %v", err)
			}
		}
		time.Sleep(time.Hour)
		store.Evict()
		wantNone(t, x, n, time.Time{}, "missing blob", "urn:a")
	})
}

func TestChecksum(t *testing.T) {
	store := model.New(time.Hour)
	x := New(store, store)
	d := put(t, store, "what the checksum says")
	sum := "sha256-" + base64.StdEncoding.EncodeToString(d.Hash[:])
	none := "sha256-" + base64.StdEncoding.EncodeToString(make([]byte, 32))
	for what, value := range map[string]string{
		"alone":             sum,
		"no padding":        strings.TrimRight(sum, "="),
		"for URLs":          "sha256-" + base64.URLEncoding.EncodeToString(d.Hash[:]),
		"an option":         sum + "?option",
		"upper case":        "SHA256" + sum[6:],
		"one of several":    none + "\t" + sum,
		"beside a stronger": "sha512-AAAA " + sum,
	} {
		t.Run(what, func(t *testing.T) {
			wantFetch(t, x, aName(Checksum, value, "bazel.canonical_id", "x"), "https://a", d, "https://a", "https://b")
		})
	}
	for what, value := range map[string]string{"absent": none, "another function": "sha512-AAAA", "empty": ""} {
		t.Run(what, func(t *testing.T) {
			wantNone(t, x, aName(Checksum, value), time.Time{}, "nothing is downloaded", "https://a")
		})
	}
	for what, n := range map[string]Name{"function": {Function: digest.BLAKE3, Kind: Blob}, "kind": {Function: digest.SHA256, Kind: Directory}} {
		n.Qualifiers = []Qualifier{{Checksum, sum}}
		t.Run(what, func(t *testing.T) { wantNone(t, x, n, time.Time{}, "", "https://a") })
	}
	for _, value := range []string{"sha256", "sha256-", "sha256-AAAA", "sha256-" + strings.Repeat("*", 43)} {
		if _, _, err := x.Fetch(t.Context(), aName(Checksum, value), []string{"https://a"}, time.Time{}); !errors.Is(err, digest.ErrSyntax) {
			t.Errorf("Fetch with checksum %q = %v, want ErrSyntax", value, err)
		}
	}

	// A blob that is not what the checksum says is not taken; what can't be compared is believed.
	wrong := put(t, store, "another")
	if err := x.Push(t.Context(), aName(Checksum, sum), []string{"https://a"}, Asset{Digest: wrong}); !errors.Is(err, blob.ErrMismatch) {
		t.Errorf("Push of another blob = %v, want ErrMismatch", err)
	}
	push(t, x, aName(Checksum, sum), Asset{Digest: d}, "https://a")
	push(t, x, aName(Checksum, "sha512-AAAA "+none), Asset{Digest: wrong}, "https://a")
	wantFetch(t, x, aName(Checksum, "sha512-AAAA "+none), "https://a", wrong, "https://a")
	_, a, err := x.Fetch(t.Context(), aName(Checksum, sum), []string{"https://a"}, time.Now().Add(time.Hour))
	if err != nil || a.Digest != d {
		t.Errorf("Fetch by checksum of what is newer than now: got %v, %v, want %v: bytes have no age", a.Digest, err, d)
	}
}

// TestRecord reads what was written, whole, and nothing that was cut short.
func TestRecord(t *testing.T) {
	digests := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) digest.Digest {
		return digest.Digest{Function: digest.BLAKE3, Hash: [32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "hash")), Size: rapid.Int64Min(0).Draw(t, "size")}
	}), 0, 3)
	rapid.Check(t, func(t *rapid.T) {
		want := Asset{
			Digest:     digest.BLAKE3.Of([]byte("x")),
			References: action.References{Function: digest.BLAKE3, Blobs: digests.Draw(t, "blobs"), Directories: digests.Draw(t, "directories")},
			Pushed:     time.Unix(0, rapid.Int64().Draw(t, "pushed")),
		}
		if expires := rapid.Int64().Draw(t, "expires"); expires != 0 {
			want.Expires = time.UnixMicro(expires)
		}
		id := Name{Kind: Blob}.identity("urn:a")
		value := want.append(slices.Clone(id))
		got, err := parse(digest.BLAKE3, id, value)
		if err != nil || got.Digest != want.Digest || !got.Pushed.Equal(want.Pushed) || !got.Expires.Equal(want.Expires) ||
			!slices.Equal(got.References.Blobs, want.References.Blobs) || !slices.Equal(got.References.Directories, want.References.Directories) {
			t.Fatalf("got %v, %v, want %v", got, err, want)
		}
		for n := range value {
			if _, err := parse(digest.BLAKE3, id, value[:n]); !errors.Is(err, blob.ErrCorrupt) {
				t.Fatalf("the first %d of %d bytes = %v, want ErrCorrupt", n, len(value), err)
			}
		}
		if _, err := parse(digest.BLAKE3, id, append(value, 0)); !errors.Is(err, blob.ErrCorrupt) {
			t.Fatalf("a byte too many = %v, want ErrCorrupt", err)
		}
	})
}
