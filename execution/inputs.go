package execution

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/wire"
)

// What bounds the memory that one action can ask for.
const (
	maxDirectory = 16 << 20 // bytes of one Directory
	maxInputs    = 1 << 20  // blobs
	portion      = 4 << 20  // bytes of Directories that are read at once
	maxPortion   = 1000     // of them
	maxRenewed   = 10_000   // blobs that are leased at once when leases are renewed
)

// inputs is all that one task must not lose.
type inputs struct {
	nodes []*node         // every directory below the root, each once
	other []digest.Digest // the action and the command
}

// A node is one directory, shared by all tasks that have it among their inputs. Its content never changes.
type node struct {
	digest digest.Digest
	files  []digest.Digest
	dirs   []digest.Digest
	users  int
}

// trees holds the directories of all tasks. Its lock is its own, and the last to be taken.
type trees struct {
	mu    sync.Mutex
	nodes map[digest.Digest]*node
	tasks map[*inputs]struct{}
}

// use returns the directory d with one more user, or nil if nobody has read it.
func (tr *trees) use(d digest.Digest) *node {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	n := tr.nodes[d]
	if n != nil {
		n.users++
	}
	return n
}

// add adds a directory that was read, and returns what is there then, with one more user.
func (tr *trees) add(n *node) *node {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.nodes == nil {
		tr.nodes, tr.tasks = map[digest.Digest]*node{}, map[*inputs]struct{}{}
	}
	if other := tr.nodes[n.digest]; other != nil {
		n = other
	}
	tr.nodes[n.digest] = n
	n.users++
	return n
}

// keep has the leases of in renewed until it is released.
func (tr *trees) keep(in *inputs) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.tasks[in] = struct{}{}
}

// release gives inputs back. They may be nil.
func (tr *trees) release(in *inputs) {
	if in == nil {
		return
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	delete(tr.tasks, in)
	for _, n := range in.nodes {
		if n.users--; n.users == 0 {
			delete(tr.nodes, n.digest)
		}
	}
	in.nodes = nil
}

// blobs returns everything that tasks must not lose, each about once.
func (tr *trees) blobs() (all []digest.Digest) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, n := range tr.nodes {
		all = append(append(all, n.digest), n.files...)
	}
	for in := range tr.tasks {
		all = append(all, in.other...)
	}
	return all
}

// lease reads all directories below root and leases them, their files and other. What is not there it adds to
// missing. The inputs are returned with an error too, for release.
func (s *Scheduler) lease(ctx context.Context, root digest.Digest, missing *digest.Set, other ...digest.Digest) (*inputs, error) {
	in := &inputs{other: other}
	all := digest.SetOf(other...)
	seen := digest.SetOf(root)
	for level := []digest.Digest{root}; len(level) > 0; {
		nodes, err := s.directories(ctx, level, missing)
		in.nodes = append(in.nodes, nodes...)
		if err != nil {
			return in, err
		}
		level = nil
		for _, n := range nodes {
			all.Add(n.digest)
			for _, d := range n.files {
				all.Add(d)
			}
			for _, d := range n.dirs {
				if seen.Add(d) {
					level = append(level, d)
				}
			}
			if all.Len() > maxInputs {
				return in, invalid("action.input_root_digest", "more than %d blobs lie below it", maxInputs)
			}
		}
	}
	gone, err := s.store.Missing(ctx, all)
	if err != nil {
		return in, err
	}
	for _, d := range gone.List() {
		missing.Add(d)
	}
	if missing.Len() == 0 {
		s.trees.keep(in)
	}
	return in, nil
}

// directories returns the directories ds as nodes that are in use, without those that are missing.
func (s *Scheduler) directories(ctx context.Context, ds []digest.Digest, missing *digest.Set) (nodes []*node, err error) {
	var unread []digest.Digest
	var size int64
	read := func() error {
		found, err := s.readDirectories(ctx, unread, missing)
		nodes, unread, size = append(nodes, found...), nil, 0
		return err
	}
	for _, d := range ds {
		if n := s.trees.use(d); n != nil {
			nodes = append(nodes, n)
			continue
		}
		if d.Size > maxDirectory {
			return nodes, invalid("action.input_root_digest", "directory %s is larger than the %d bytes that are read", d, maxDirectory)
		}
		unread, size = append(unread, d), size+d.Size
		if size >= portion || len(unread) == maxPortion {
			if err := read(); err != nil {
				return nodes, err
			}
		}
	}
	err = read()
	return nodes, err
}

func (s *Scheduler) readDirectories(ctx context.Context, ds []digest.Digest, missing *digest.Set) (nodes []*node, err error) {
	if len(ds) == 0 {
		return nil, nil
	}
	data, errs := s.store.GetAll(ctx, ds)
	for i, d := range ds {
		if errors.Is(errs[i], blob.ErrNotFound) || errors.Is(errs[i], blob.ErrCorrupt) {
			missing.Add(d)
			continue
		}
		if errs[i] != nil {
			return nodes, errs[i]
		}
		n, err := parseDirectory(d, data[i])
		if err != nil {
			return nodes, err
		}
		nodes = append(nodes, s.trees.add(n))
	}
	return nodes, nil
}

func parseDirectory(d digest.Digest, data []byte) (*node, error) {
	n := &node{digest: d}
	err := wire.Nodes(data, func(kind protowire.Number, in wire.Node) error {
		if in.Size < 0 {
			return fmt.Errorf("%q: size %d is negative", in.Name, in.Size)
		}
		child, err := digest.New(d.Function, string(in.Hash), in.Size)
		if err != nil {
			return fmt.Errorf("%q: %w", in.Name, err)
		}
		if kind == wire.DirectoryDirectories {
			n.dirs = append(n.dirs, child)
		} else {
			n.files = append(n.files, child)
		}
		return nil
	})
	if err != nil {
		return nil, invalid("action.input_root_digest", "below it, blob %s is not a Directory: %v", d, err)
	}
	return n, nil
}

// renew leases all inputs of all tasks anew every quarter of a lease, until the scheduler is closed.
func (s *Scheduler) renew() {
	tick := time.NewTicker(s.o.Lease / 4)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		}
		all := s.trees.blobs()
		for len(all) > 0 && !mutant.LeaseOnce {
			n := min(len(all), maxRenewed)
			missing, err := s.store.Missing(s.ctx, digest.SetOf(all[:n]...))
			all = all[n:]
			if s.ctx.Err() != nil {
				return
			}
			if err != nil {
				s.o.Log.Error("leases of inputs could not be renewed", "error", err)
			} else if missing.Len() > 0 {
				s.o.Log.Error("inputs are gone that were leased", "blobs", missing.Len(), "first", missing.List()[0].String())
			}
		}
	}
}
