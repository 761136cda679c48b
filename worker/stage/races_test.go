package stage

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/sim"
)

// TestSingleFlight: eight calls that want one tree fetch each blob once.
func TestSingleFlight(t *testing.T) {
	dir, src := t.TempDir(), newSource()
	s := openStager(t, dir, src, Options{}, 64<<20)
	want := grove(50, 4)
	want["large"] = sample["large"]
	root := src.store(t, digest.SHA256, want)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			into := filepath.Join(dir, fmt.Sprint(i))
			if _, err := s.Stage(ctx, root, into); err != nil {
				t.Error(err)
			} else if err := diff(into, want); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for d, n := range src.reads {
		if n != 1 {
			t.Errorf("%s was fetched %d times, want once", d, n)
		}
	}
	if len(src.reads) != 201 || src.trees != 1 {
		t.Errorf("%d blobs and %d trees were fetched, want 201 and 1", len(src.reads), src.trees)
	}
}

// TestSecondLook: a call that found a directory or a file absent, and claims it when another one has been through
// with it, fetches nothing.
func TestSecondLook(t *testing.T) {
	for _, point := range []string{"stage: directories looked up", "stage: files looked up"} {
		t.Run(point, func(t *testing.T) {
			dir, src := t.TempDir(), newSource()
			s := openStager(t, dir, src, Options{}, 64<<20)
			want := tree{"a": {data: "a"}}
			root := src.store(t, digest.SHA256, want)
			fetching, looked, through := make(chan struct{}), make(chan struct{}), make(chan struct{})
			var gets, looks atomic.Int32
			first := "tree"
			if point != "stage: directories looked up" {
				first = "get"
			}
			src.before = func(op string, _ ...digest.Digest) error {
				if op == first && gets.Add(1) == 1 {
					close(fetching)
					<-looked
				}
				return nil
			}
			sim.Install(func(name string) {
				if name == point && looks.Add(1) == 2 {
					close(looked)
					<-through
				}
			})
			defer sim.Install(nil)
			var wg sync.WaitGroup
			wg.Go(func() {
				defer close(through)
				if _, err := s.Stage(ctx, root, filepath.Join(dir, "first")); err != nil {
					t.Error(err)
				}
			})
			<-fetching
			if _, err := s.Stage(ctx, root, filepath.Join(dir, "second")); err != nil {
				t.Error(err)
			}
			wg.Wait()
			if gets := src.reads[digest.SHA256.Of([]byte("a"))]; gets != 1 || src.trees+src.reads[root] != 1 {
				t.Errorf("the file was fetched %d times and the directory %d times, want once", gets, src.trees+src.reads[root])
			}
		})
	}
}

// TestPublishedAtOnce: who finds the root of a tree that another call fetched finds all of it.
func TestPublishedAtOnce(t *testing.T) {
	dir, src := t.TempDir(), newSource()
	s := openStager(t, dir, src, Options{}, 64<<20)
	want := grove(50, 1)
	root := src.store(t, digest.SHA256, want)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := s.Stage(ctx, root, filepath.Join(dir, "first")); err != nil {
			t.Error(err)
		}
	})
	for !s.cache.has(root) {
		runtime.Gosched()
	}
	stats, err := s.Stage(ctx, root, filepath.Join(dir, "second"))
	wg.Wait()
	if err != nil || stats.Resolved != 0 {
		t.Errorf("%+v, %v, want no directory to be fetched", stats, err)
	}
}

// TestHandOver: the one who fetches is cancelled in the middle, or fails; those who wait for him go on.
func TestHandOver(t *testing.T) {
	for _, op := range []string{"tree", "get", "open"} {
		t.Run(op, func(t *testing.T) {
			dir, src := t.TempDir(), newSource()
			s := openStager(t, dir, src, Options{}, 64<<20)
			want := tree{"a": {data: "a"}, "large": sample["large"]}
			root := src.store(t, digest.SHA256, want)
			first, cancel := context.WithCancel(ctx)
			var calls atomic.Int32
			inside, others := make(chan struct{}), make(chan struct{})
			src.before = func(at string, _ ...digest.Digest) error {
				if at != op || calls.Add(1) > 1 {
					return nil
				}
				close(inside)
				<-others
				cancel()
				return context.Canceled
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				if _, err := s.Stage(first, root, filepath.Join(dir, "first")); !errors.Is(err, context.Canceled) {
					t.Errorf("the cancelled call = %v, want Canceled", err)
				}
			})
			<-inside
			for i := range 3 {
				wg.Go(func() {
					into := filepath.Join(dir, fmt.Sprint(i))
					if _, err := s.Stage(ctx, root, into); err != nil {
						t.Errorf("HandOver: a waiter has %v", err)
					} else if err := diff(into, want); err != nil {
						t.Error(err)
					}
				})
			}
			close(others)
			wg.Wait()
		})
	}
}

// TestFailuresAreTriedAgain: one blob of a batch fails twice, and the call succeeds.
func TestFailuresAreTriedAgain(t *testing.T) {
	dir, src := t.TempDir(), newSource()
	s := openStager(t, dir, src, Options{}, 64<<20)
	want := tree{"a": {data: "a"}, "b": {data: "b"}, "large": sample["large"]}
	root := src.store(t, digest.SHA256, want)
	var gets, opens atomic.Int32
	src.before = func(op string, _ ...digest.Digest) error {
		if op == "get" && gets.Add(1) <= 2 || op == "open" && opens.Add(1) <= 2 {
			return errors.New("the line is noisy")
		}
		return nil
	}
	staged(t, s, root, dir, want)
	src.before = func(string, ...digest.Digest) error { return errors.New("the line is dead") }
	root = src.store(t, digest.SHA256, tree{"c": {data: "c"}})
	into := filepath.Join(dir, "dead")
	if _, err := s.Stage(ctx, root, into); err == nil || !strings.Contains(err.Error(), "the line is dead") {
		t.Errorf("Stage = %v, want the source's error", err)
	}
	if _, err := os.Lstat(into); err == nil {
		t.Error("a tree is left")
	}
}

// TestDeadSource: when all blobs of a batch fail for good, one is tried again for all of them.
func TestDeadSource(t *testing.T) {
	dir, src := t.TempDir(), newSource()
	s := openStager(t, dir, src, Options{}, 64<<20)
	root := src.store(t, digest.SHA256, grove(1, 20))
	var tries atomic.Int32
	src.before = func(op string, ds ...digest.Digest) error {
		if op != "get" {
			return nil
		}
		tries.Add(1)
		return errors.New("the line is dead")
	}
	if _, err := s.Stage(ctx, root, filepath.Join(dir, "into")); err == nil || !strings.Contains(err.Error(), "the line is dead") {
		t.Errorf("Stage = %v, want the source's error", err)
	}
	if got := tries.Load(); got != attempts {
		t.Errorf("the source was asked %d times, want %d", got, attempts)
	}
}

// meeting is a blob whose first reader waits for a second one.
type meeting struct {
	blob.Reader
	readers atomic.Int32
	second  chan struct{}
}

func (m *meeting) ReadAt(p []byte, off int64) (int, error) {
	switch m.readers.Add(1) {
	case 1:
		<-m.second
	case 2:
		close(m.second)
	}
	return m.Reader.ReadAt(p, off)
}

// TestParallelRanges: a large blob comes in several ranges at once, and they are put together in order.
func TestParallelRanges(t *testing.T) {
	dir, src := t.TempDir(), newSource()
	s := openStager(t, dir, src, Options{}, 64<<20)
	want := tree{"large": {data: strings.Repeat("no two ranges are equal ", 700_000) + strings.Repeat("the end", 300_000)}}
	src.wrap = func(r blob.Reader) blob.Reader { return &meeting{Reader: r, second: make(chan struct{})} }
	staged(t, s, src.store(t, digest.SHA256, want), dir, want) // which waits for ever if it reads one after the other
}

// TestEvictionWhileStaging: a store that holds a part of what eight calls stage at once evicts all the time;
// every tree is right, and nothing is fetched for want of a file that was pinned.
func TestEvictionWhileStaging(t *testing.T) {
	dir, src := t.TempDir(), newSource()
	s := openStager(t, dir, src, Options{}, 60*4096)
	var wants []tree
	var roots []digest.Digest
	for i := range 4 {
		want := tree{"large": {data: strings.Repeat("too large for the store", 20000)}}
		for j := range 50 {
			want[fmt.Sprintf("dir%d/file%d", j%5, j)] = entry{data: fmt.Sprint("content ", i*25+j), executable: j%4 == 0}
		}
		wants, roots = append(wants, want), append(roots, src.store(t, digest.SHA256, want))
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 4 {
				into := filepath.Join(dir, fmt.Sprint(i, "-", j))
				if _, err := s.Stage(ctx, roots[(i+j)%4], into); err != nil {
					t.Error(err)
				} else if err := diff(into, wants[(i+j)%4]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := s.o.Files.Stats(); got.Corrupt > 0 || got.Pins > 0 || got.Bytes > 60*4096 || got.Evicted == 0 {
		t.Errorf("Stats = %+v, want evictions, at most %d bytes, nothing corrupt and no pin", got, 60*4096)
	}
}

// TestFileGone: somebody removed stored files behind the store's back; they are fetched again.
func TestFileGone(t *testing.T) {
	dir, src := t.TempDir(), newSource()
	s := openStager(t, dir, src, Options{}, 64<<20)
	root := src.store(t, digest.SHA256, sample)
	staged(t, s, root, dir, sample)
	names, err := filepath.Glob(filepath.Join(dir, "files", "*-*"))
	if err != nil || len(names) < 6 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	if stats := staged(t, s, root, dir, sample); stats.Fetched != 5 || stats.Resolved != 0 {
		t.Errorf("%+v, want 5 blobs fetched and no directory", stats)
	}
	if got := s.o.Files.Stats().Corrupt; got != int64(len(names)) {
		t.Errorf("%d corrupt, want %d", got, len(names))
	}
}

// TestBudget: batches in flight are bounded together, and a budget that is given back whole is whole.
func TestBudget(t *testing.T) {
	dir, src := t.TempDir(), newSource()
	s := openStager(t, dir, src, Options{InFlight: 5 << 20}, 1<<30)
	want := tree{}
	for i := range 40 {
		want[fmt.Sprint("f", i)] = entry{data: strings.Repeat(fmt.Sprint("half a megabyte ", i), 32000)}
	}
	root := src.store(t, digest.SHA256, want)
	staged(t, s, root, dir, want)
	if src.most > 5<<20 {
		t.Errorf("%d bytes were in flight, want at most %d", src.most, 5<<20)
	}
	if s.budget.free != s.budget.size {
		t.Errorf("%d bytes of the budget are free at rest, want %d", s.budget.free, s.budget.size)
	}
	hold, _ := s.budget.take(ctx, 5<<20)
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.budget.take(cancelled, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("take = %v, want Canceled", err)
	}
	s.budget.giveBack(hold)
	if s.budget.free != s.budget.size {
		t.Error("a waiter that left took something with it")
	}
}

// TestModel stages random trees, some of them anew after a restart or with blobs lost, on a store and a cache
// that are too small, and compares each with its model.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		src := newSource()
		o := Options{MaxEntries: rapid.IntRange(1, 30).Draw(rt, "entries")}
		size := int64(rapid.IntRange(2, 40).Draw(rt, "blocks")) * 4096
		s := openStager(t, dir, src, o, size)
		defer func() { closeStager(t, s) }()
		n := 0
		rt.Repeat(map[string]func(*rapid.T){
			"stage": func(rt *rapid.T) {
				want := randomTree(rand.New(rand.NewPCG(uint64(rapid.IntRange(0, 5).Draw(rt, "tree")), 1)))
				root := src.store(t, digest.SHA256, want)
				n++
				into := filepath.Join(dir, fmt.Sprint("into", n))
				if _, err := s.Stage(ctx, root, into); err != nil {
					rt.Fatal(err)
				}
				if err := diff(into, want); err != nil {
					rt.Fatal(err)
				}
			},
			"lost": func(rt *rapid.T) {
				want := tree{"d/lost": {data: fmt.Sprint("lost ", n)}, "d/here": {data: "here"}}
				root := src.store(t, digest.SHA256, want)
				d := digest.SHA256.Of([]byte(want["d/lost"].data))
				src.lose(d)
				n++
				_, err := s.Stage(ctx, root, filepath.Join(dir, fmt.Sprint("into", n)))
				var missing *blob.MissingError
				if !errors.As(err, &missing) || len(missing.Blobs) != 1 || missing.Blobs[0] != d {
					rt.Fatalf("Stage = %v, want %s to be missing", err, d)
				}
			},
			"restart": func(rt *rapid.T) {
				closeStager(t, s)
				s = openStager(t, dir, src, o, size)
			},
			"": func(rt *rapid.T) {
				if got := s.Totals(); got.Entries > int64(o.MaxEntries) {
					rt.Fatalf("%d directories are cached, want at most %d", got.Entries, o.MaxEntries)
				}
				if got := s.o.Files.Stats(); got.Pins > 0 || got.Corrupt > 0 || got.Bytes > size {
					rt.Fatalf("Stats = %+v, want no pin, nothing corrupt, at most %d bytes", got, size)
				}
			},
		})
	})
}

// TestStoreTooSmall: files that the store has no room for are files of their own.
func TestStoreTooSmall(t *testing.T) {
	dir, src := t.TempDir(), newSource()
	s := openStager(t, dir, src, Options{}, 4096)
	into := filepath.Join(dir, "into")
	root := src.store(t, digest.SHA256, sample)
	stats, err := s.Stage(ctx, root, into)
	if err != nil {
		t.Fatal(err)
	}
	if err := diff(into, sample); err != nil {
		t.Error(err)
	}
	if stats.Private < 5 {
		t.Errorf("%+v, want most files to be private", stats)
	}
	src.lose(digest.SHA256.Of([]byte(sample["large"].data)))
	if _, err := s.Stage(ctx, root, filepath.Join(dir, "again")); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Stage = %v, want ErrNotFound", err)
	}
}
