package stage

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
)

const (
	batchBytes = 4 << 20 // of one GetAll
	batchBlobs = 500
	// treeCalls is how many Tree calls are made at once.
	treeCalls = 8
)

// resolve returns the plan of a tree; the caller releases it, whatever the error. Directories that the
// source lacks are in missing, and the plan is then good for nothing else.
func (s *Stager) resolve(ctx context.Context, root digest.Digest) (*plan, error) {
	p := &plan{root: root, nodes: map[digest.Digest]*node{}}
	if root.Size < 0 || !root.Function.Valid() {
		return p, fmt.Errorf("%w: a root needs a size and a known digest function", blob.ErrInvalid)
	}
	asked := digest.Set{} // whose Tree was asked for
	for {
		unknown := s.walk(p)
		if len(unknown) == 0 {
			return p, nil
		}
		sim.Point("stage: directories looked up")
		if int64(len(p.nodes)+len(unknown)) > s.o.MaxNodes {
			return p, fmt.Errorf("%w: the tree has more than %d directories", blob.ErrInvalid, s.o.MaxNodes)
		}
		var mine []digest.Digest
		var theirs []<-chan struct{}
		for _, d := range unknown {
			if flight := s.trees.claim(d); flight != nil {
				theirs = append(theirs, flight)
			} else if s.cache.has(d) && !mutant.NoSecondLook {
				s.trees.land(d) // somebody was through just before
			} else {
				mine = append(mine, d)
			}
		}
		err := s.fetchNodes(ctx, p, mine, &asked)
		s.publish(p)
		for _, d := range mine {
			if err == nil || !mutant.NeverLands {
				s.trees.land(d)
			}
		}
		if err != nil {
			return p, err
		}
		for _, flight := range theirs {
			if err := await(ctx, flight); err != nil {
				return p, err
			}
		}
	}
}

// walk takes into the plan what the cache has, from the root down, and returns what it has not.
func (s *Stager) walk(p *plan) (unknown []digest.Digest) {
	seen := map[digest.Digest]struct{}{p.root: {}}
	todo := []digest.Digest{p.root}
	for len(todo) > 0 {
		d := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		n := p.nodes[d]
		if n == nil {
			if n = s.known(d); n != nil {
				p.nodes[d] = n
				p.known++
			} else if !p.missing.Has(d) {
				unknown = append(unknown, d)
			}
		}
		if n == nil {
			continue
		}
		for i := range n.dirs {
			c := n.dirs[i].digest
			if _, ok := seen[c]; !ok {
				seen[c] = struct{}{}
				todo = append(todo, c)
			}
		}
	}
	return unknown
}

// known returns a node that needs no fetch, or nil.
func (s *Stager) known(d digest.Digest) *node {
	if d.IsEmpty() {
		return &node{digest: d} // it is stored nowhere
	}
	return s.cache.take(d)
}

// fetchNodes fetches directories, and all below those of whose children none is known.
func (s *Stager) fetchNodes(ctx context.Context, p *plan, ds []digest.Digest, asked *digest.Set) error {
	if len(ds) == 0 {
		return nil
	}
	var whole []digest.Digest
	if entries, _, _ := s.cache.size(); entries == 0 && asked.Len() == 0 {
		whole = ds // nothing can be known of them
	} else {
		if err := s.fetchSome(ctx, p, ds); err != nil {
			return err
		}
		for _, d := range ds {
			if n := p.nodes[d]; n != nil && len(n.dirs) > 0 && !s.knowsAny(p, n) {
				whole = append(whole, d)
			}
		}
	}
	var ask []digest.Digest
	for _, d := range whole {
		if asked.Add(d) {
			ask = append(ask, d)
		}
	}
	return s.fetchTrees(ctx, p, ask)
}

func (s *Stager) knowsAny(p *plan, n *node) bool {
	for i := range n.dirs {
		d := n.dirs[i].digest
		if p.nodes[d] != nil || s.cache.has(d) {
			return true
		}
	}
	return false
}

// fetchSome fetches directories as blobs.
func (s *Stager) fetchSome(ctx context.Context, p *plan, ds []digest.Digest) error {
	for len(ds) > 0 {
		n := batch(len(ds), func(i int) int64 { return ds[i].Size })
		some := ds[:n]
		ds = ds[n:]
		for _, d := range some {
			if d.Size > maxDirectory {
				return fmt.Errorf("%w: directory %s is larger than %d bytes", blob.ErrInvalid, d, maxDirectory)
			}
		}
		data, errs := s.o.Source.GetAll(ctx, some)
		for i, d := range some {
			switch {
			case errors.Is(errs[i], blob.ErrNotFound):
				p.missing.Add(d)
			case errs[i] != nil:
				return errs[i]
			default:
				if err := s.learn(p, d, data[i]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// batch returns how many of n blobs make the first batch.
func batch(n int, size func(i int) int64) int {
	var bytes int64
	for i := range min(n, batchBlobs) {
		if bytes += size(i); bytes > batchBytes {
			return max(i, 1)
		}
	}
	return min(n, batchBlobs)
}

// fetchTrees fetches directories with all below them.
func (s *Stager) fetchTrees(ctx context.Context, p *plan, roots []digest.Digest) error {
	var wg sync.WaitGroup
	slots := make(chan struct{}, treeCalls)
	found := make([]map[digest.Digest]*repb.Directory, len(roots))
	for i, d := range roots {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			var err error
			if found[i], err = s.o.Source.Tree(ctx, d); err != nil {
				// What it did not return is asked for again, and that error counts.
				s.o.Log.Debug("a tree is fetched directory by directory", "root", d, "error", err)
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for _, tree := range found {
		for d, m := range tree {
			data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
			if err != nil || p.nodes[d] != nil || d.Function.Of(data) != d && !mutant.TreeBelieved {
				continue // encoded in another way than its blob is, or not what it is said to be
			}
			if err := s.learn(p, d, data); err != nil {
				return err
			}
		}
	}
	return s.fetchLeft(ctx, p, roots)
}

// fetchLeft fetches those of the roots of trees that did not come.
func (s *Stager) fetchLeft(ctx context.Context, p *plan, roots []digest.Digest) error {
	var left []digest.Digest
	for _, d := range roots {
		if p.nodes[d] == nil {
			left = append(left, d)
		}
	}
	return s.fetchSome(ctx, p, left)
}

// learn takes a directory message into the plan.
func (s *Stager) learn(p *plan, d digest.Digest, data []byte) error {
	if p.nodes[d] != nil {
		return nil
	}
	if got := d.Function.Of(data); got != d && !mutant.TreeBelieved {
		return &blob.Error{Op: "get", Digest: d, Err: blob.Mismatch(d, got)}
	}
	n, err := decode(d, data)
	if err != nil {
		return err
	}
	p.nodes[d] = n
	p.fresh = append(p.fresh, message{d, data})
	p.resolved++
	return nil
}

// publish puts what the plan learned into the cache, all at one moment: whoever finds a directory there finds
// what came with it too, and has no reason to fetch that once more.
func (s *Stager) publish(p *plan) {
	for i := 0; mutant.PublishApart && i < len(p.fresh); i++ {
		s.keeper.add(s.cache.putAll(p.nodes, p.fresh[i:i+1]))
		time.Sleep(time.Millisecond)
	}
	s.keeper.add(s.cache.putAll(p.nodes, p.fresh))
	p.fresh = nil
}
