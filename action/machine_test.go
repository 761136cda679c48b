package action

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
)

// A part is something that a result names. What is inside it can only be asked for while its bytes,
// a tree's or a directory's, can be read.
type part struct {
	name   string
	data   []byte
	inside []string
	addTo  func(*repb.ActionResult, *repb.Digest)
}

// parts are what results are made of: files, a tree and a directory that share one, and streams.
var parts = func() map[string]part {
	all := map[string]part{}
	add := func(name string, m proto.Message, addTo func(*repb.ActionResult, *repb.Digest), inside ...string) {
		data := []byte("bytes of " + name)
		if m != nil {
			data, _ = proto.Marshal(m) // fails for text that is not UTF-8 only
		}
		all[name] = part{name, data, inside, addTo}
	}
	file := func(name string) *repb.FileNode {
		return &repb.FileNode{Name: name, Digest: protoOf(all[name].data)}
	}
	output := func(r *repb.ActionResult, d *repb.Digest) {
		r.OutputFiles = append(r.OutputFiles, &repb.OutputFile{Path: d.Hash, Digest: d})
	}
	for _, name := range []string{"a", "b", "c"} {
		add(name, nil, output)
	}
	add("stdout", nil, func(r *repb.ActionResult, d *repb.Digest) { r.StdoutDigest = d })
	add("stderr", nil, func(r *repb.ActionResult, d *repb.Digest) { r.StderrDigest = d })
	add("tree", &repb.Tree{
		Root:     &repb.Directory{Files: []*repb.FileNode{file("a")}},
		Children: []*repb.Directory{{Files: []*repb.FileNode{file("b")}}},
	}, func(r *repb.ActionResult, d *repb.Digest) {
		r.OutputDirectories = append(r.OutputDirectories, &repb.OutputDirectory{Path: "tree", TreeDigest: d})
	}, "a", "b")
	add("leaf", &repb.Directory{Files: []*repb.FileNode{file("c")}}, output) // as a file it holds nothing
	leaf := &repb.DirectoryNode{Name: "leaf", Digest: protoOf(all["leaf"].data)}
	add("root", &repb.Directory{Files: []*repb.FileNode{file("b")}, Directories: []*repb.DirectoryNode{leaf}}, func(r *repb.ActionResult, d *repb.Digest) {
		r.OutputDirectories = append(r.OutputDirectories, &repb.OutputDirectory{Path: "root", RootDirectoryDigest: d})
	}, "b", "leaf", "c")
	return all
}()

var partNames = []string{"a", "b", "c", "leaf", "root", "stderr", "stdout", "tree"}

func protoOf(data []byte) *repb.Digest {
	d := digest.SHA256.Of(data)
	return &repb.Digest{Hash: d.Hex(), SizeBytes: d.Size}
}

func (p part) digest() digest.Digest { return digest.SHA256.Of(p.data) }

// A machine runs random calls on a cache over a store whose blobs go when their leases end, and knows
// what each result names.
type machine struct {
	store *model.Store
	cache *Cache
	last  map[string]put       // of each action; none once its result is gone
	until map[string]time.Time // when the promise to keep a part ends
}

// A put is a result, by its exit code, and its closure.
type put struct {
	exit  int32
	names []string
}

const machineLease = time.Hour

// TestMachine runs random calls with rapid. How often and how long: -rapid.checks and -rapid.steps.
func TestMachine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rapid.SyncTest(t, func(t *rapid.T) {
			store := model.New(machineLease)
			m := &machine{store, New(store, store), map[string]put{}, map[string]time.Time{}}
			actions := map[string]func(*rapid.T){
				"":       m.check,
				"upload": m.upload,
				"put":    m.put,
				"get":    m.get,
				"evict":  func(*rapid.T) { m.store.Evict() },
				"sleep": func(t *rapid.T) {
					const l = machineLease
					time.Sleep(rapid.SampledFrom([]time.Duration{l / 4, l / 2, l - 1, l, l + 1}).Draw(t, "time"))
				},
			}
			for range 5 { // longer runs than rapid's default
				t.Repeat(actions)
			}
		})
	})
}

// check is run after every step. Complete: nothing that a result named goes within a lease of the yes.
func (m *machine) check(t *rapid.T) {
	for name, until := range m.until {
		if p := m.store.Presence(parts[name].digest()); time.Now().Before(until) && p != model.Must {
			t.Errorf("Complete: %s %v be there, and is promised until %v", name, p, until)
		}
	}
	if n := m.store.Pins(); n != 0 {
		t.Errorf("%d pins are held", n)
	}
}

func (m *machine) promise(names []string) {
	for _, name := range names {
		m.until[name] = time.Now().Add(machineLease)
	}
}

var aSubset = rapid.SliceOfDistinct(rapid.SampledFrom(partNames), rapid.ID)

func (m *machine) upload(t *rapid.T) {
	for _, name := range aSubset.Draw(t, "parts") {
		if err := blob.Put(context.Background(), m.store, parts[name].digest(), parts[name].data); err != nil {
			t.Fatalf("Put of %s = %v", name, err)
		}
		m.promise([]string{name})
	}
}

// missing returns what of names is gone.
func (m *machine) missing(names []string) (gone []string) {
	for _, name := range names {
		if m.store.Presence(parts[name].digest()) == model.MustNot {
			gone = append(gone, name)
		}
	}
	return gone
}

var anActionName = rapid.SampledFrom([]string{"compile", "link"})

func keyOf(action string) Key { return Key{"main", digest.SHA256.Of([]byte(action))} }

func (m *machine) put(t *rapid.T) {
	action := anActionName.Draw(t, "action")
	result := &repb.ActionResult{ExitCode: rapid.Int32().Draw(t, "exit code")}
	var names []string
	for _, name := range aSubset.Draw(t, "parts") {
		p := parts[name]
		p.addTo(result, protoOf(p.data))
		names = append(append(names, name), p.inside...)
	}
	gone := m.missing(names)
	err := m.cache.Put(context.Background(), keyOf(action), result)
	var incomplete *blob.MissingError
	switch {
	case len(gone) == 0 && err != nil:
		t.Fatalf("Put of a complete result = %v", err)
	case len(gone) > 0 && !errors.As(err, &incomplete):
		t.Fatalf("Complete: Put of a result without %v = %v, want a MissingError", gone, err)
	case len(gone) > 0:
		for _, d := range incomplete.Blobs {
			if !slices.ContainsFunc(gone, func(name string) bool { return parts[name].digest() == d }) {
				t.Fatalf("Put = %v, and missing are %v", err, gone)
			}
		}
		return
	}
	m.last[action] = put{result.ExitCode, names}
	m.promise(names)
}

// get gets a result and compares it with the last that was put.
func (m *machine) get(t *rapid.T) {
	action := anActionName.Draw(t, "action")
	result, err := m.cache.Get(context.Background(), keyOf(action))
	last, ok := m.last[action]
	if !ok {
		if !errors.Is(err, blob.ErrNotFound) {
			t.Fatalf("Get = %v, %v, want ErrNotFound", result, err)
		}
		return
	}
	gone := m.missing(last.names)
	switch {
	case len(gone) > 0 && !errors.Is(err, blob.ErrNotFound):
		t.Fatalf("Complete: Get without %v = %v, want ErrNotFound", gone, err)
	case len(gone) > 0:
		delete(m.last, action) // an incomplete result is dropped, and stays so
	case err != nil:
		t.Fatalf("Get of a complete result = %v", err)
	case result.GetExitCode() != last.exit:
		t.Fatalf("Get gives the result with exit code %d, want %d", result.GetExitCode(), last.exit)
	default:
		m.promise(last.names)
	}
}
