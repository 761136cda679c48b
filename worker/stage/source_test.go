package stage

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
)

var ctx = context.Background()

// A source is a server in memory that counts what it is asked for.
type source struct {
	blob.Batcher
	// before, if set, is called before each call, and the call then has its error.
	before func(op string, ds ...digest.Digest) error
	// wrap, if set, is what Open's answers go through.
	wrap func(blob.Reader) blob.Reader

	mu    sync.Mutex
	dirs  map[digest.Digest]*repb.Directory
	trees int                   // calls of Tree
	reads map[digest.Digest]int // by GetAll and Open
	gone  map[digest.Digest]bool
	inUse int64 // bytes of batches that are being read
	most  int64
}

func newSource() *source {
	return &source{
		Batcher: blob.Batches(model.New(time.Hour)),
		dirs:    map[digest.Digest]*repb.Directory{},
		reads:   map[digest.Digest]int{},
		gone:    map[digest.Digest]bool{},
	}
}

func (s *source) enter(op string, ds ...digest.Digest) error {
	if s.before != nil {
		return s.before(op, ds...)
	}
	return nil
}

func (s *source) lacks(d digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone[d]
}

func (s *source) GetAll(ctx context.Context, ds []digest.Digest) ([][]byte, []error) {
	err := s.enter("get", ds...)
	var bytes int64
	s.mu.Lock()
	for _, d := range ds {
		s.reads[d]++
		bytes += d.Size
	}
	s.inUse += bytes
	s.most = max(s.most, s.inUse)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.inUse -= bytes
		s.mu.Unlock()
	}()
	data, errs := s.Batcher.GetAll(ctx, ds)
	for i, d := range ds {
		if s.lacks(d) {
			data[i], errs[i] = nil, blob.ErrNotFound
		}
		if err != nil {
			data[i], errs[i] = nil, err
		}
	}
	return data, errs
}

func (s *source) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	if err := s.enter("open", d); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.reads[d]++
	s.mu.Unlock()
	if s.lacks(d) {
		return nil, blob.ErrNotFound
	}
	r, err := s.Batcher.Open(ctx, d)
	if err == nil && s.wrap != nil {
		r = s.wrap(r)
	}
	return r, err
}

func (s *source) Missing(ctx context.Context, ds digest.Set) (digest.Set, error) {
	missing, err := s.Batcher.Missing(ctx, ds)
	for _, d := range ds.List() {
		if s.lacks(d) {
			missing.Add(d)
		}
	}
	return missing, err
}

func (s *source) Tree(ctx context.Context, root digest.Digest) (map[digest.Digest]*repb.Directory, error) {
	if err := s.enter("tree", root); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trees++
	found := map[digest.Digest]*repb.Directory{}
	todo := []digest.Digest{root}
	var err error
	for len(todo) > 0 {
		d := todo[0]
		todo = todo[1:]
		if found[d] != nil {
			continue
		}
		m := s.dirs[d]
		if m == nil || s.gone[d] {
			err = &blob.MissingError{Blobs: []digest.Digest{d}}
			continue
		}
		found[d] = m
		for _, c := range m.Directories {
			if next, err := digest.New(d.Function, c.Digest.Hash, c.Digest.SizeBytes); err == nil && found[next] == nil {
				todo = append(todo, next)
			}
		}
	}
	return found, err
}

// forget makes the source count from nothing.
func (s *source) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trees, s.reads = 0, map[digest.Digest]int{}
}

// asked returns how many reads there were.
func (s *source) asked() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.reads {
		n += k
	}
	return n
}

// lose makes the source lack blobs.
func (s *source) lose(ds ...digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range ds {
		s.gone[d] = true
	}
}

// put stores a blob.
func (s *source) put(t testing.TB, f digest.Function, data []byte) digest.Digest {
	t.Helper()
	d := f.Of(data)
	if err := blob.Put(ctx, s.Batcher, d, data); err != nil {
		t.Fatal(err)
	}
	return d
}

// directory stores a message, valid or not.
func (s *source) directory(t testing.TB, f digest.Function, m *repb.Directory) digest.Digest {
	t.Helper()
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	d := s.put(t, f, data)
	s.mu.Lock()
	s.dirs[d] = m
	s.mu.Unlock()
	return d
}

func wire(d digest.Digest) *repb.Digest { return &repb.Digest{Hash: d.Hex(), SizeBytes: d.Size} }

// A tree is what a test wants to be staged: paths below the root. A directory's path ends in a slash.
type tree map[string]entry

type entry struct {
	data       string
	executable bool
	target     string // of a symbolic link
	byMode     bool   // executable by node_properties
}

// store stores a tree, and returns its root.
func (s *source) store(t testing.TB, f digest.Function, want tree) digest.Digest {
	t.Helper()
	m := new(repb.Directory)
	below := map[string]tree{}
	for _, path := range slices.Sorted(maps.Keys(want)) {
		e := want[path]
		for i, c := range path {
			if c == '/' {
				name := path[:i]
				if below[name] == nil {
					below[name] = tree{}
				}
				if rest := path[i+1:]; rest != "" {
					below[name][rest] = e
				}
				path = ""
				break
			}
		}
		switch {
		case path == "":
		case e.target != "":
			m.Symlinks = append(m.Symlinks, &repb.SymlinkNode{Name: path, Target: e.target})
		default:
			node := &repb.FileNode{Name: path, Digest: wire(s.put(t, f, []byte(e.data))), IsExecutable: e.executable && !e.byMode}
			if e.byMode {
				node.NodeProperties = &repb.NodeProperties{UnixMode: wrapperspb.UInt32(0o640)}
				if e.executable {
					node.NodeProperties.UnixMode.Value = 0o750
				}
			}
			m.Files = append(m.Files, node)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(below)) {
		m.Directories = append(m.Directories, &repb.DirectoryNode{Name: name, Digest: wire(s.store(t, f, below[name]))})
	}
	return s.directory(t, f, m)
}

// grove returns a tree of dirs directories below 10 others, with perDir files each.
func grove(dirs, perDir int) tree {
	want := tree{}
	for i := range dirs {
		for j := range perDir {
			want[fmt.Sprintf("top%d/dir%d/file%d.go", i%10, i, j)] = entry{data: fmt.Sprintf("file %d of %d\n", j, i), executable: j == 0 && i%10 == 0}
		}
	}
	return want
}

// randomTree returns a tree that only this seed gives.
func randomTree(r *rand.Rand) tree {
	want := tree{}
	var fill func(path string, depth int)
	fill = func(path string, depth int) {
		if path != "" {
			want[path] = entry{}
		}
		for i := range r.IntN(4) {
			e := entry{data: fmt.Sprint("content ", r.IntN(20)), executable: r.IntN(3) == 0, byMode: r.IntN(3) == 0}
			if r.IntN(8) == 0 {
				e.data = ""
			}
			want[fmt.Sprint(path, "f", i)] = e
		}
		if r.IntN(3) == 0 {
			want[path+"link"] = entry{target: "./f0/../nowhere"}
		}
		for i := range r.IntN(4) {
			if depth < 4 {
				fill(fmt.Sprint(path, "d", i, "/"), depth+1)
			}
		}
	}
	fill("", 0)
	return want
}
