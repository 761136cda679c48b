package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/chunk"
	"github.com/sarsen-build/sarsen/chunk/mapping"
	"github.com/sarsen-build/sarsen/client"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/snapshotpb"
	"github.com/sarsen-build/sarsen/server"
	"github.com/sarsen-build/sarsen/upstream"
)

// connect starts a server that leases nothing, so that Evict takes all that is not kept.
func connect(t *testing.T) (*client.Client, *model.Store) {
	t.Helper()
	store := model.New(0)
	return serve(t, store), store
}

// whole is what a server needs of a store.
type whole interface {
	blob.Store
	blob.Records
	blob.Keeper
}

func serve(t *testing.T, store whole) *client.Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := server.New(server.Options{Store: store, Actions: action.New(store, store), Chunks: mapping.New(store, store, chunk.Recommended()), Keeper: store})
	go s.Serve(l)
	t.Cleanup(func() { s.Stop(t.Context()) })
	c, err := client.Dial(t.Context(), "grpc://"+l.Addr().String(), "an/instance")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func random(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// fill makes a directory with a bit of everything.
func fill(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "source")
	write := func(name string, data []byte, mode fs.FileMode) {
		full := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, data, 0o600), os.Chmod(full, mode)); err != nil {
			t.Fatal(err)
		}
		when := time.Unix(1_600_000_000, int64(len(name))*1_000)
		if err := os.Chtimes(full, when, when); err != nil {
			t.Fatal(err)
		}
	}
	write("empty", nil, 0o644)
	write("run.sh", []byte("#!/bin/sh\n"), 0o750)
	write("a/b/c/deep", []byte("deep"), 0o400)
	write("a/large", random(9<<20, 1), 0o644)
	write("a/same", []byte("deep"), 0o644)
	write("holes", append(make([]byte, 4<<20), 1), 0o644)
	write("ä ö\n", []byte("odd name"), 0o604)
	for i := range 300 {
		write(fmt.Sprintf("many/%03d", i), []byte(fmt.Sprint("file ", i)), 0o644)
	}
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "nothing"), 0o700), os.Symlink("../outside", filepath.Join(dir, "a/link")),
		os.Symlink("nowhere", filepath.Join(dir, "dangling")), os.Chmod(filepath.Join(dir, "a/b"), 0o711)); err != nil {
		t.Fatal(err)
	}
	when := time.Unix(1_500_000_000, 7_000)
	if err := os.Chtimes(filepath.Join(dir, "nothing"), when, when); err != nil {
		t.Fatal(err)
	}
	return dir
}

// listing returns a line for each thing below dir, but times of links and of dir itself.
func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(full string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, full)
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(full)
			if err != nil {
				return err
			}
			all[name] = fmt.Sprint(info.Mode(), info.ModTime().UnixNano(), digest.SHA256.Of(data))
		case e.IsDir():
			all[name] = fmt.Sprint(info.Mode(), info.ModTime().UnixNano())
		default:
			target, _ := os.Readlink(full)
			all[name] = "link to " + target
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func same(t *testing.T, got, want map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Errorf("%q: got %q, want %q", name, got[name], want[name])
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%q is there and should not", name)
		}
	}
}

// keep uploads dir and keeps it.
func keep(t *testing.T, c *client.Client, dir string, o Options) (*snapshotpb.Snapshot, digest.Digest) {
	t.Helper()
	if o.Function == 0 {
		o.Function = digest.SHA256
	}
	s, err := Create(t.Context(), c, dir, &snapshotpb.Snapshot{Name: "work"}, o)
	if err != nil {
		t.Fatal(err)
	}
	root, err := digestOf(o.Function, s.Root)
	if err != nil {
		t.Fatal(err)
	}
	return s, root
}

// TestRoundTrip: what was kept outlives eviction, and comes back as it was; released, it goes.
func TestRoundTrip(t *testing.T) {
	dir := fill(t)
	want := listing(t, dir)
	for _, f := range digest.Functions {
		c, store := connect(t)
		s, root := keep(t, c, dir, Options{Function: f})
		store.Evict()
		target := filepath.Join(t.TempDir(), "there", "target")
		if err := Restore(t.Context(), c, root, target, RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
		same(t, listing(t, target), want)
		var counts Counts
		if err := Verify(t.Context(), c, root, &counts, func(name string, err error) { t.Errorf("%s: %v", name, err) }); err != nil {
			t.Fatal(err)
		}
		if got := counts.Files.Load(); got != 307 {
			t.Errorf("Verify read %d files, want 307", got)
		}
		if got, err := c.Snapshots(t.Context(), "work"); err != nil || len(got) != 1 || !proto.Equal(got[0], s) || s.KeptBlobs < 300 {
			t.Errorf("Snapshots = %v, %v, want %v", got, err, s)
		}
		if err := c.ReleaseSnapshot(t.Context(), s.Name, s.Id); err != nil {
			t.Fatal(err)
		}
		store.Evict()
		if err := Restore(t.Context(), c, root, t.TempDir(), RestoreOptions{}); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Restore of what was released = %v, want ErrNotFound", err)
		}
	}
}

// TestSparse: zeros take no room where they are restored.
func TestSparse(t *testing.T) {
	c, _ := connect(t)
	_, root := keep(t, c, fill(t), Options{})
	target := t.TempDir()
	if err := Restore(t.Context(), c, root, target, RestoreOptions{Paths: []string{"holes"}}); err != nil {
		t.Fatal(err)
	}
	if got := blocks(t, filepath.Join(target, "holes")); got > 1<<20 {
		t.Errorf("4 MiB of zeros take %d bytes", got)
	}
}

// TestAgain: the second time only what changed is sent, of a large file the chunks around the change, even after
// eviction took the chunks.
func TestAgain(t *testing.T) {
	dir := fill(t)
	c, store := connect(t)
	var first Counts
	_, before := keep(t, c, dir, Options{Counts: &first})
	store.Evict()
	data := random(9<<20, 1)
	data[5<<20]++
	if err := os.WriteFile(filepath.Join(dir, "a/large"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	for i, most := range []int64{3 << 20, 0} {
		var counts Counts
		_, root := keep(t, c, dir, Options{Before: before, BeforeTime: time.Now().Add(time.Hour), Counts: &counts})
		if got := counts.Moved.Load(); got > most || counts.Files.Load() != first.Files.Load() {
			t.Errorf("time %d: %d of %d bytes sent in %d files, want at most %d", i, got, counts.Bytes.Load(), counts.Files.Load(), most)
		}
		t.Logf("time %d: %d of %d bytes sent", i, counts.Moved.Load(), counts.Bytes.Load())
		before = root
	}
	target := t.TempDir()
	if err := Restore(t.Context(), c, before, target, RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	same(t, below(listing(t, target)), below(listing(t, dir)))
}

// below leaves out the top.
func below(all map[string]string) map[string]string {
	delete(all, ".")
	return all
}

// TestRestoreExisting: what differs is replaced, what is the same is not fetched, and what has other names stays.
func TestRestoreExisting(t *testing.T) {
	dir := fill(t)
	c, _ := connect(t)
	_, root := keep(t, c, dir, Options{})
	target := t.TempDir()
	if err := Restore(t.Context(), c, root, target, RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	outside := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(target, "mine"), nil, 0o600), os.WriteFile(filepath.Join(target, "run.sh"), []byte("changed"), 0o600),
		os.Remove(filepath.Join(target, "dangling")), os.RemoveAll(filepath.Join(target, "many")), os.Symlink(outside, filepath.Join(target, "many"))); err != nil {
		t.Fatal(err)
	}
	var counts Counts
	if err := Restore(t.Context(), c, root, target, RestoreOptions{Counts: &counts}); err != nil {
		t.Fatal(err)
	}
	if got := counts.Moved.Load(); got > 10_000 {
		t.Errorf("%d bytes were fetched, want those of the small files", got)
	}
	got := listing(t, target)
	if got["mine"] == "" {
		t.Error("a file that is not in the snapshot is gone")
	}
	delete(got, "mine")
	same(t, below(got), below(listing(t, dir)))
	if left, _ := os.ReadDir(outside); len(left) > 0 {
		t.Errorf("%d files were written through a link", len(left))
	}
}

func TestRestoreSubset(t *testing.T) {
	c, _ := connect(t)
	_, root := keep(t, c, fill(t), Options{})
	target := t.TempDir()
	if err := Restore(t.Context(), c, root, target, RestoreOptions{Paths: []string{"a/b/", "run.sh"}}); err != nil {
		t.Fatal(err)
	}
	got := slices.Sorted(maps.Keys(listing(t, target)))
	if want := []string{".", "a", "a/b", "a/b/c", "a/b/c/deep", "run.sh"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, wrong := range []string{"none", "../x", "/a"} {
		if err := Restore(t.Context(), c, root, target, RestoreOptions{Paths: []string{wrong}}); err == nil {
			t.Errorf("Restore of %q succeeded", wrong)
		}
	}
}

// TestHostile: a tree whose names lead elsewhere, or whose link stands where a directory is, writes nothing there.
func TestHostile(t *testing.T) {
	c, store := connect(t)
	file := func(name string) *repb.FileNode {
		d := digest.SHA256.Of([]byte("bad"))
		if err := blob.Put(t.Context(), store, d, []byte("bad")); err != nil {
			t.Fatal(err)
		}
		return &repb.FileNode{Name: name, Digest: upstream.ToProto(d)}
	}
	directory := func(m *repb.Directory) digest.Digest {
		data, _ := proto.Marshal(m)
		d := digest.SHA256.Of(data)
		if err := blob.Put(t.Context(), store, d, data); err != nil {
			t.Fatal(err)
		}
		return d
	}
	outside := t.TempDir()
	below := upstream.ToProto(directory(&repb.Directory{Files: []*repb.FileNode{file("bad")}}))
	for _, m := range []*repb.Directory{
		{Files: []*repb.FileNode{file("../bad")}}, {Files: []*repb.FileNode{file("..")}}, {Files: []*repb.FileNode{file("a/b")}}, {Files: []*repb.FileNode{file("")}},
		{Symlinks: []*repb.SymlinkNode{{Name: "x", Target: outside}}, Directories: []*repb.DirectoryNode{{Name: "x", Digest: below}}},
	} {
		target := filepath.Join(t.TempDir(), "target")
		if err := Restore(t.Context(), c, directory(m), target, RestoreOptions{}); err == nil {
			t.Errorf("Restore of %v succeeded", m)
		}
		for _, dir := range []string{outside, filepath.Dir(target)} {
			left, _ := os.ReadDir(dir)
			for _, e := range left {
				if e.Name() != "target" {
					t.Errorf("%v wrote %s", m, e.Name())
				}
			}
		}
	}
}

// TestIncomplete: a tree of which something is missing is not kept, and Verify says what.
func TestIncomplete(t *testing.T) {
	c, store := connect(t)
	gone := upstream.ToProto(digest.SHA256.Of([]byte("gone")))
	data, _ := proto.Marshal(&repb.Directory{Files: []*repb.FileNode{{Name: "f", Digest: gone}}, Directories: []*repb.DirectoryNode{{Name: "d", Digest: gone}}})
	root := digest.SHA256.Of(data)
	if err := blob.Put(t.Context(), store, root, data); err != nil {
		t.Fatal(err)
	}
	_, err := c.KeepSnapshot(t.Context(), &snapshotpb.Snapshot{Name: "work", Root: upstream.ToProto(root)})
	if err == nil || !strings.Contains(err.Error(), gone.Hash) {
		t.Errorf("Keep = %v, want what is missing", err)
	}
	var bad []string
	if err := Verify(t.Context(), c, root, new(Counts), func(name string, err error) { bad = append(bad, name) }); err != nil || !slices.Equal(bad, []string{"d", "f"}) {
		t.Errorf("Verify found %q, %v, want d and f", bad, err)
	}
	if err := Restore(t.Context(), c, root, t.TempDir(), RestoreOptions{}); err == nil {
		t.Error("Restore of what is missing succeeded")
	}
	for _, name := range []string{"", "a/b", ".", "-x", strings.Repeat("x", 129)} {
		if _, err := c.KeepSnapshot(t.Context(), &snapshotpb.Snapshot{Name: name, Root: upstream.ToProto(root)}); err == nil || strings.Contains(err.Error(), gone.Hash) {
			t.Errorf("Keep as %q = %v, want that it is no name", name, err)
		}
	}
}

func TestExclude(t *testing.T) {
	var e Excludes
	if err := e.AddAll(strings.NewReader("# what builds make\n*.o\n!keep.o\n/top\nbuild/\na/**/z\nx/y\nall/**\n!all/but\n[!0-9].txt\n\n")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"f.o": true, "d/f.o": true, "d/keep.o": false, "top": true, "d/top": false, "build": false, "build/": true, "d/build/": true,
		"a/z": true, "a/b/c/z": true, "b/z": false, "x/y": true, "d/x/y": false, "f.c": false,
		"all/": false, "all/x": true, "all/d/x": true, "all/but": false, "a.txt": true, "7.txt": false,
	} {
		plain, directory := strings.CutSuffix(name, "/")
		if got := e.match(plain, directory); got != want {
			t.Errorf("%q is left out: %v, want %v", name, got, want)
		}
	}
	for _, wrong := range []string{"", "/", "[", "!"} {
		if err := new(Excludes).Add(wrong); err == nil {
			t.Errorf("Add(%q) succeeded", wrong)
		}
	}
	c, _ := connect(t)
	dir := fill(t)
	var out Excludes
	if err := errors.Join(out.Add("many/"), out.Add("large"), out.Add("/a/b")); err != nil {
		t.Fatal(err)
	}
	var counts Counts
	keep(t, c, dir, Options{Excludes: out, Counts: &counts})
	if got := counts.Files.Load(); got != 5 {
		t.Errorf("%d files were kept, want 5", got)
	}
}

// TestDry: nothing is sent.
func TestDry(t *testing.T) {
	c, _ := connect(t)
	root, err := upload(t.Context(), c, fill(t), Options{Function: digest.SHA256, Dry: true})
	if err != nil {
		t.Fatal(err)
	}
	if missing, err := c.Missing(t.Context(), digest.SetOf(root)); err != nil || missing.Len() != 1 {
		t.Errorf("the root was sent, %v", err)
	}
}

// TestUnreadable: what can't be kept is named, and the rest is kept.
func TestUnreadable(t *testing.T) {
	c, _ := connect(t)
	dir := fill(t)
	pipe(t, filepath.Join(dir, "pipe"))
	if err := os.WriteFile(filepath.Join(dir, "not\xffutf8"), nil, 0o600); err != nil {
		t.Skipf("this file system takes no such name: %v", err)
	}
	var skipped []string
	keep(t, c, dir, Options{Skipped: func(name string, why error) { skipped = append(skipped, name) }})
	slices.Sort(skipped)
	if want := []string{"not\xffutf8", "pipe"}; !slices.Equal(skipped, want) {
		t.Errorf("skipped %q, want %q", skipped, want)
	}
}

// TestWriteHoles compares what the sparse writer makes with what it was given, in writes of odd sizes.
func TestWriteHoles(t *testing.T) {
	data := append(append(random(100_000, 3), make([]byte, 300_001)...), random(10, 4)...)
	data = append(data, make([]byte, 70_000)...)
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := &sparse{f: f}
	for rest := data; len(rest) > 0; {
		n := min(len(rest), 77_777)
		if got, err := s.Write(rest[:n]); got != n || err != nil {
			t.Fatalf("Write = %d, %v, want %d", got, err, n)
		}
		rest = rest[n:]
	}
	if err := f.Truncate(s.at); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the file has %d bytes, %v, and others than it was given", len(got), err)
	}
}
