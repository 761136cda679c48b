package stage

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// A builder makes directories and links. Several goroutines take tasks from one stack: the last that came
// first, so that few directories are open at once.
type builder struct {
	stager *Stager
	ctx    context.Context
	fail   context.CancelCauseFunc
	plan   *plan
	fetch  *fetch

	mu      sync.Mutex
	more    sync.Cond // tasks, or the end
	tasks   []task
	working int

	directories, files, links, linked atomic.Int64
}

// A task is a directory that is to be made and filled.
type task struct {
	parent *openDir // nil: dir is there already
	dir    *openDir
	name   string
	path   string // below the root
	d      digest.Digest
}

// An openDir is closed when nobody makes directories in it any more.
type openDir struct {
	vfs.Dir
	users atomic.Int32
}

func newBuilder(ctx context.Context, fail context.CancelCauseFunc, s *Stager, p *plan, f *fetch) *builder {
	b := &builder{stager: s, ctx: ctx, fail: fail, plan: p, fetch: f}
	b.more.L = &b.mu
	return b
}

// run makes the tree below top, and returns when all that needs no fetch is there. What goes wrong cancels
// the context.
func (b *builder) run(top vfs.Dir, workers int) {
	dir := &openDir{Dir: top}
	dir.users.Store(2) // the caller closes it
	b.tasks = append(b.tasks, task{dir: dir, d: b.plan.root})
	var wg sync.WaitGroup
	for range max(workers, 2) {
		wg.Go(b.work)
	}
	wg.Wait()
	b.fetch.flush()
}

func (b *builder) work() {
	for {
		t, ok := b.next()
		if !ok {
			return
		}
		if b.ctx.Err() == nil {
			if err := b.make(t); err != nil {
				b.fail(err)
			}
		}
		if t.parent != nil {
			b.leave(t.parent)
		}
		b.mu.Lock()
		b.working--
		if b.working == 0 && len(b.tasks) == 0 {
			b.more.Broadcast()
		}
		b.mu.Unlock()
	}
}

// next waits for a task, or for the end of all.
func (b *builder) next() (task, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.tasks) == 0 {
		if b.working == 0 {
			return task{}, false
		}
		b.more.Wait()
	}
	t := b.tasks[len(b.tasks)-1]
	b.tasks = b.tasks[:len(b.tasks)-1]
	b.working++
	return t, true
}

// leave closes a directory when the last one leaves it.
func (b *builder) leave(d *openDir) {
	if d.users.Add(-1) == 0 {
		if err := d.Close(); err != nil {
			b.fail(err)
		}
	}
}

// make makes one directory and what lies in it, and leaves the directories in it to whoever is free.
func (b *builder) make(t task) error {
	dir := t.dir
	if dir == nil {
		var err error
		if dir, err = enter(t.parent, t.name); err != nil {
			return err
		}
	}
	b.directories.Add(1)
	n := b.plan.nodes[t.d]
	dir.users.Add(int32(len(n.dirs)) + 1)
	defer b.leave(dir)
	if len(n.dirs) > 0 {
		b.mu.Lock()
		for i := range n.dirs {
			c := &n.dirs[i]
			b.tasks = append(b.tasks, task{parent: dir, name: c.name, path: t.path + c.name + "/", d: c.digest})
		}
		b.more.Broadcast()
		b.mu.Unlock()
	}
	for i := range n.links {
		if err := dir.Symlink(n.links[i].target, n.links[i].name); err != nil {
			return err
		}
	}
	b.links.Add(int64(len(n.links)))
	return b.link(dir.Dir, t.path, n)
}

// enter makes a directory and opens it.
func enter(parent *openDir, name string) (*openDir, error) {
	if err := parent.MakeDir(name); err != nil {
		return nil, err
	}
	dir, err := parent.Sub(name)
	if err != nil {
		return nil, err
	}
	return &openDir{Dir: dir}, nil
}

// link links the files of a directory, and asks for those that can't be.
func (b *builder) link(dir vfs.Dir, path string, n *node) error {
	linked := int64(0)
	defer func() { b.linked.Add(linked) }()
	for i := range n.files {
		f := &n.files[i]
		err := b.stager.o.Files.LinkAt(b.ctx, f.digest, f.executable, dir, f.name)
		switch {
		case err == nil:
			linked++
		case wantsBytes(err):
			b.fetch.want(f.digest, place{path + f.name, f.executable})
		default:
			return err
		}
		if b.ctx.Err() != nil {
			return nil // the reason is known
		}
	}
	b.files.Add(int64(len(n.files)))
	return nil
}

// wantsBytes reports whether a link could not be made for reasons that fetching the bytes gets over.
func wantsBytes(err error) bool {
	return errors.Is(err, blob.ErrNotFound) || errors.Is(err, blob.ErrFull) || errors.Is(err, blob.ErrTooLarge) || errors.Is(err, blob.ErrAborted)
}

func (b *builder) count(s *Stats) {
	s.Directories, s.Files, s.Symlinks = b.directories.Load(), b.files.Load(), b.links.Load()
	s.Linked = b.linked.Load()
}
