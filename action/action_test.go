package action

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/sim/explore"
)

// A builder puts blobs and names them as results do.
type builder struct {
	t     *testing.T
	store blob.Store
	named map[string]*repb.Digest
}

// blob stores text, unless its name is the one to leave out.
func (b *builder) blob(name, text string) *repb.Digest {
	d := digest.SHA256.Of([]byte(text))
	if err := blob.Put(context.Background(), b.store, d, []byte(text)); err != nil {
		b.t.Fatal(err)
	}
	b.named[name] = &repb.Digest{Hash: d.Hex(), SizeBytes: d.Size}
	return b.named[name]
}

func (b *builder) message(name string, m proto.Message) *repb.Digest {
	data, err := proto.Marshal(m)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.blob(name, string(data))
}

// result returns a result that names a blob in each way there is.
func (b *builder) result() *repb.ActionResult {
	file := func(name string) *repb.FileNode {
		return &repb.FileNode{Name: name, Digest: b.blob(name, "bytes of "+name)}
	}
	leaf := &repb.Directory{Files: []*repb.FileNode{file("file in a leaf of a root")}}
	root := &repb.Directory{
		Files:       []*repb.FileNode{file("file in a root")},
		Directories: []*repb.DirectoryNode{{Name: "leaf", Digest: b.message("leaf of a root", leaf)}},
	}
	tree := &repb.Tree{
		Root:     &repb.Directory{Files: []*repb.FileNode{file("file in a tree's root")}},
		Children: []*repb.Directory{{Files: []*repb.FileNode{file("file in a tree's child")}}},
	}
	return &repb.ActionResult{
		OutputFiles: []*repb.OutputFile{{Path: "a", Digest: b.blob("file", "file")}},
		OutputDirectories: []*repb.OutputDirectory{
			{Path: "t", TreeDigest: b.message("tree", tree)},
			{Path: "r", RootDirectoryDigest: b.message("root", root)},
		},
		StdoutDigest: b.blob("stdout", "out"),
		StderrDigest: b.blob("stderr", "err"),
	}
}

var anAction = Key{"main", digest.SHA256.Of([]byte("action"))}

// without is a store in which one blob is absent.
type without struct {
	*model.Store
	gone digest.Digest
}

func (w without) Missing(ctx context.Context, ds digest.Set) (digest.Set, error) {
	missing, err := w.Store.Missing(ctx, ds)
	if ds.Has(w.gone) {
		missing.Add(w.gone)
	}
	return missing, err
}

func (w without) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	if d == w.gone {
		return nil, blob.ErrNotFound
	}
	return w.Store.Open(ctx, d)
}

func TestRoundTrip(t *testing.T) {
	store := model.New(time.Hour)
	b := &builder{t, store, map[string]*repb.Digest{}}
	want := b.result()
	c := New(store, store)
	if _, err := c.Get(t.Context(), anAction); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Get before Put = %v, want ErrNotFound", err)
	}
	if err := c.Put(t.Context(), anAction, want); err != nil {
		t.Fatal(err)
	}
	got, err := c.Get(t.Context(), anAction)
	if diff := cmp.Diff(want, got, protocmp.Transform()); err != nil || diff != "" {
		t.Errorf("Get = %v, difference %s", err, diff)
	}
	for name, k := range map[string]Key{
		"instance": {"other", anAction.Action},
		"function": {"main", digest.Digest{Function: digest.BLAKE3, Hash: anAction.Action.Hash, Size: anAction.Action.Size}},
		"hash":     {"main", digest.SHA256.Of([]byte("other"))},
	} {
		if _, err := c.Get(t.Context(), k); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Get with another %s = %v, want ErrNotFound", name, err)
		}
	}
	sizeless := anAction
	sizeless.Action.Size = digest.AnySize
	if _, err := c.Get(t.Context(), sizeless); err != nil {
		t.Errorf("Get without the action's size = %v", err)
	}
	if pins := store.Pins(); pins != 0 {
		t.Errorf("%d pins left", pins)
	}
}

// TestComplete takes away each blob that a result names, one at a time.
func TestComplete(t *testing.T) {
	b := &builder{t, model.New(time.Hour), map[string]*repb.Digest{}}
	b.result()
	for name := range b.named {
		store := model.New(time.Hour)
		b := &builder{t, store, map[string]*repb.Digest{}}
		result := b.result()
		gone, err := digest.New(digest.SHA256, b.named[name].Hash, b.named[name].SizeBytes)
		if err != nil {
			t.Fatal(err)
		}
		holed := New(without{store, gone}, store)
		var incomplete *blob.MissingError
		if err := holed.Put(t.Context(), anAction, result); !errors.As(err, &incomplete) || len(incomplete.Blobs) != 1 || incomplete.Blobs[0] != gone {
			t.Errorf("Complete: Put without %s = %v, want it named", name, err)
		}
		if err := New(store, store).Put(t.Context(), anAction, result); err != nil {
			t.Fatal(err)
		}
		if _, err := holed.Get(t.Context(), anAction); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Complete: Get without %s = %v, want ErrNotFound", name, err)
		}
		if _, err := New(store, store).Get(t.Context(), anAction); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Complete: the incomplete result was not dropped: %v", err)
		}
	}
}

// TestFileHidesNothing: a blob that is an output file and a directory is walked all the same.
func TestFileHidesNothing(t *testing.T) {
	gone := digest.SHA256.Of([]byte("never uploaded"))
	dir := &repb.Directory{Files: []*repb.FileNode{{Name: "x", Digest: &repb.Digest{Hash: gone.Hex(), SizeBytes: gone.Size}}}}
	store := model.New(time.Hour)
	b := &builder{t, store, map[string]*repb.Digest{}}
	directory, tree := b.message("directory", dir), b.message("tree", &repb.Tree{Root: dir})
	for _, result := range []*repb.ActionResult{
		{
			OutputFiles:       []*repb.OutputFile{{Path: "dir.pb", Digest: directory}},
			OutputDirectories: []*repb.OutputDirectory{{Path: "d", RootDirectoryDigest: directory}},
		},
		{
			OutputFiles:       []*repb.OutputFile{{Path: "tree.pb", Digest: tree}},
			OutputDirectories: []*repb.OutputDirectory{{Path: "d", TreeDigest: tree}},
		},
	} {
		var incomplete *blob.MissingError
		if err := New(store, store).Put(t.Context(), anAction, result); !errors.As(err, &incomplete) {
			t.Errorf("Complete: Put of a result whose directory names a missing file = %v, want a MissingError", err)
		}
	}
}

func TestInlined(t *testing.T) {
	store := model.New(time.Hour)
	c := New(store, store)
	name := func(text string) *repb.Digest {
		d := digest.SHA256.Of([]byte(text))
		return &repb.Digest{Hash: d.Hex(), SizeBytes: d.Size}
	}
	result := &repb.ActionResult{
		OutputFiles:  []*repb.OutputFile{{Path: "a", Digest: name("file"), Contents: []byte("file")}},
		StdoutRaw:    []byte("out"),
		StdoutDigest: name("out"),
		StderrRaw:    []byte("err"),
	}
	if err := c.Put(t.Context(), anAction, result); err != nil {
		t.Fatalf("Put of a result with its bytes inline = %v", err)
	}
	for _, text := range []string{"file", "out", "err"} {
		if _, err := blob.Get(t.Context(), store, digest.SHA256.Of([]byte(text))); err != nil {
			t.Errorf("blob %q: %v", text, err)
		}
	}
	got, err := c.Get(t.Context(), anAction)
	if err != nil || got.GetStderrDigest().GetHash() != name("err").Hash || len(got.StderrRaw) > 0 {
		t.Errorf("Get = %v, %v", got, err)
	}
	var field *FieldError
	result.StdoutRaw = []byte("other")
	if err := c.Put(t.Context(), anAction, result); !errors.As(err, &field) || field.Field != "stdout_raw" || !errors.Is(err, blob.ErrMismatch) {
		t.Errorf("Put with inline bytes of another digest = %v, want stdout_raw named", err)
	}
}

func TestMalformed(t *testing.T) {
	store := model.New(time.Hour)
	bad := &repb.Digest{Hash: "x", SizeBytes: 1}
	empty := &repb.Digest{Hash: digest.SHA256.Empty().Hex()}
	junk := []byte("\xff\xff\xff")
	d := digest.SHA256.Of(junk)
	if err := blob.Put(t.Context(), store, d, junk); err != nil {
		t.Fatal(err)
	}
	for field, result := range map[string]*repb.ActionResult{
		"output_files[0].digest":                      {OutputFiles: []*repb.OutputFile{{Path: "a", Digest: bad}}},
		"output_directories[0].tree_digest":           {OutputDirectories: []*repb.OutputDirectory{{TreeDigest: bad}}},
		"output_directories[0].root_directory_digest": {OutputDirectories: []*repb.OutputDirectory{{RootDirectoryDigest: &repb.Digest{Hash: d.Hex(), SizeBytes: d.Size}}}},
		"output_directories[1].tree_digest":           {OutputDirectories: []*repb.OutputDirectory{{TreeDigest: empty}, {TreeDigest: &repb.Digest{Hash: d.Hex(), SizeBytes: d.Size}}}},
		"output_files[0].digest ":                     {OutputFiles: []*repb.OutputFile{{Path: "a", Digest: &repb.Digest{Hash: d.Hex(), SizeBytes: -1}}}},
		"stdout_digest":                               {StdoutDigest: bad},
		"stderr_digest":                               {StderrDigest: bad},
	} {
		err := New(store, store).Put(t.Context(), anAction, result)
		var f *FieldError
		if !errors.As(err, &f) || f.Field != strings.TrimSpace(field) {
			t.Errorf("Put = %v, want a FieldError of %s", err, field)
		}
	}
}

func TestTooLong(t *testing.T) {
	store := model.New(time.Hour)
	c := New(store, store)
	result := &repb.ActionResult{ExecutionMetadata: &repb.ExecutedActionMetadata{Worker: strings.Repeat("w", MaxResult-8)}}
	result.ExecutionMetadata.Worker = result.ExecutionMetadata.Worker[proto.Size(result)-MaxResult:]
	if err := c.Put(t.Context(), anAction, result); err != nil {
		t.Errorf("Put of %d bytes = %v", proto.Size(result), err)
	}
	result.ExecutionMetadata.Worker += "w"
	if err := c.Put(t.Context(), anAction, result); !errors.Is(err, blob.ErrTooLarge) {
		t.Errorf("Put of %d bytes = %v, want ErrTooLarge", proto.Size(result), err)
	}
}

// pointed is a store with a point before each call, so that a scheduler can come between them.
type pointed struct{ *model.Store }

func (p pointed) Missing(ctx context.Context, ds digest.Set) (digest.Set, error) {
	sim.Point("missing")
	return p.Store.Missing(ctx, ds)
}

func (p pointed) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	sim.Point("open")
	return p.Store.Open(ctx, d)
}

// TestSeededComplete gets a result while the store evicts what it may and an updater puts it again.
// What is served can be read, whole.
func TestSeededComplete(t *testing.T) {
	explore.Run(t, 1000, func(t *testing.T, s *explore.Schedule) {
		const lease = time.Hour
		store := pointed{model.New(lease)}
		c := New(store, store)
		b := &builder{t, store, map[string]*repb.Digest{}}
		result := b.result()
		if err := c.Put(context.Background(), anAction, result); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * lease)
		for _, name := range []string{"getter 1", "getter 2"} {
			s.Go(name, func() {
				if _, err := c.Get(context.Background(), anAction); err != nil {
					return
				}
				time.Sleep(lease - time.Second)
				for blobName, p := range b.named {
					d, _ := digest.New(digest.SHA256, p.Hash, p.SizeBytes)
					if _, err := blob.Get(context.Background(), store.Store, d); err != nil {
						t.Errorf("Complete: a result was served, but %s is gone: %v", blobName, err)
					}
				}
			})
		}
		if s.Seed%2 == 0 { // in the other half nobody leases the blobs anew but the getters
			s.Go("updater", func() {
				again := &builder{t, store, map[string]*repb.Digest{}}
				err := c.Put(context.Background(), anAction, again.result())
				if err != nil {
					t.Errorf("Complete: Put of a complete result = %v", err)
				}
			})
		}
		s.Go("evictor", func() {
			for range 3 {
				store.Evict()
				sim.Point("evicted")
			}
			time.Sleep(lease / 2)
			store.Evict()
		})
		s.Run()
		if pins := store.Pins(); pins != 0 {
			t.Errorf("%d pins left", pins)
		}
	})
}
