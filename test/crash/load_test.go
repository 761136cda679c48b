//go:build crash && linux

package crash

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/digest"
)

const (
	writers = 4
	looking = 2 // goroutines that ask while the writers write
)

// blobBytes returns the bytes of a blob.
func blobBytes(seed uint64, size int64) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	data := make([]byte, size)
	_, _ = rand.NewChaCha8(key).Read(data)
	return data
}

// A load writes to a server and asks it, until it is stopped. It goes on where it was at the next server.
type load struct {
	oracle *oracle
	tell   func(format string, args ...any)
	pace   int64 // bytes a second that the writers send together
	away   bool  // the server may say that what it depends on is away
	plain  bool  // nobody asks for, or sends again, what is not acknowledged yet
	salt   byte  // what its actions differ in from those of other loads, which have the same blobs

	writers [writers]*writer
	looking [looking]*rand.Rand
	refused atomic.Int64 // writes that the server refused for lack of room
	tally   tally        // what the askers found, once stop has returned

	dying  atomic.Bool // the server is about to be killed
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	err    error // the first that is neither a refusal nor the server's end
}

func newLoad(o *oracle, seed uint64, pace int64, tell func(string, ...any)) *load {
	l := &load{oracle: o, pace: pace, tell: tell}
	for i := range l.writers {
		l.writers[i] = &writer{load: l, rand: rand.New(rand.NewPCG(seed, uint64(i)))}
	}
	for i := range l.looking {
		l.looking[i] = rand.New(rand.NewPCG(seed, uint64(100+i)))
	}
	return l
}

// start begins to write to a server.
func (l *load) start(c *conn) {
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	l.dying.Store(false)
	for _, w := range l.writers {
		w.conn = c
		l.wg.Go(func() { l.repeat(ctx, w.step) })
	}
	for _, r := range l.looking {
		if l.plain {
			break
		}
		l.wg.Go(func() {
			l.repeat(ctx, func(ctx context.Context) error {
				check := &check{conn: c, lease: l.oracle.lease, tell: l.tell, oracle: l.oracle}
				err := check.ask(ctx, l.oracle.some(r, 1+r.IntN(20)))
				check.tally.checked = 0 // which says how many were asked for after a crash
				l.mu.Lock()
				l.tally.add(check.tally)
				l.mu.Unlock()
				pause(ctx, time.Duration(r.IntN(20))*time.Millisecond)
				return err
			})
		})
	}
}

// repeat repeats step until ctx ends, or the server does.
func (l *load) repeat(ctx context.Context, step func(context.Context) error) {
	for ctx.Err() == nil {
		err := step(ctx)
		switch {
		case err == nil:
		case ctx.Err() != nil || l.dying.Load():
			return
		case refusal(err), l.away && status.Code(err) == codes.Unavailable:
			l.refused.Add(1)
			pause(ctx, 20*time.Millisecond)
		default:
			l.mu.Lock()
			if l.err == nil {
				l.err = err
			}
			l.mu.Unlock()
			return
		}
	}
}

// ending says that errors are to be expected from now on.
func (l *load) ending() { l.dying.Store(true) }

// refusal reports whether a server may answer so when it has no room.
func refusal(err error) bool {
	code := status.Code(err)
	return code == codes.ResourceExhausted || code == codes.Aborted
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// stop ends the load, if it runs, and returns what the askers found, and what went wrong that a dying server does
// not explain.
func (l *load) stop() (tally, error) {
	if l.cancel != nil {
		l.cancel()
	}
	l.wg.Wait()
	t, err := l.tally, l.err
	l.tally, l.err = tally{}, nil
	return t, err
}

// A writer writes blobs and results that name them.
type writer struct {
	load    *load
	conn    *conn
	rand    *rand.Rand
	blobs   []mine          // acknowledged, the latest last
	actions []digest.Digest // the latest last
}

// mine is a blob that a writer got acknowledged.
type mine struct {
	digest digest.Digest
	until  time.Time // the end of its lease
}

// step writes some blobs and some results.
func (w *writer) step(ctx context.Context) error {
	var size int64
	var err error
	switch n := w.rand.IntN(100); {
	case n < 60:
		size, err = w.batch(ctx)
	case n < 85:
		size, err = w.stream(ctx, 100<<10)
	case n < 92:
		size, err = w.stream(ctx, int64(1+w.rand.IntN(8<<10)))
	case n < 99:
		size, err = w.stream(ctx, 1<<20)
	default:
		size, err = w.stream(ctx, 8<<20)
	}
	for n := w.rand.IntN(4); n > 0 && err == nil; n-- {
		err = w.result(ctx)
	}
	if w.conn.http != "" && err == nil {
		err = w.rootStep(ctx)
	}
	pause(ctx, time.Duration(size*writers*int64(time.Second)/w.load.pace))
	return err
}

// fresh makes a blob, or now and then takes one that somebody has just sent.
func (w *writer) fresh(size int64) (digest.Digest, []byte) {
	if w.rand.IntN(10) == 0 && !w.load.plain {
		for _, f := range w.load.oracle.some(w.rand, 1).blobs {
			if f.seed != 0 {
				return f.digest, blobBytes(f.seed, f.digest.Size)
			}
		}
	}
	seed := 1 + w.rand.Uint64()/2
	data := blobBytes(seed, size)
	d := digest.SHA256.Of(data)
	w.load.oracle.sending(d, seed)
	return d, data
}

// acknowledged notes a yes for a blob that was sent at the time asked.
func (w *writer) acknowledged(d digest.Digest, asked time.Time) {
	w.load.oracle.yes(d, asked)
	if len(w.blobs) >= 64 {
		w.blobs = append(w.blobs[:0], w.blobs[32:]...)
	}
	w.blobs = append(w.blobs, mine{d, asked.Add(w.load.oracle.lease)})
}

func (w *writer) batch(ctx context.Context) (size int64, err error) {
	var ds []digest.Digest
	var bytes [][]byte
	seen := map[digest.Digest]bool{}
	for range 1 + w.rand.IntN(30) {
		n := []int64{100, 100, 4 << 10, 4 << 10, 4 << 10, 30 << 10}[w.rand.IntN(6)]
		d, data := w.fresh(n)
		if seen[d] || size+d.Size > maxBatch {
			continue
		}
		seen[d] = true
		ds, bytes, size = append(ds, d), append(bytes, data), size+d.Size
	}
	if len(ds) == 0 {
		return 0, nil
	}
	asked := time.Now()
	errs, err := w.conn.writeBatch(ctx, ds, bytes)
	if err != nil {
		return size, fmt.Errorf("batch update: %w", err)
	}
	for i, one := range errs {
		if one == nil {
			w.acknowledged(ds[i], asked)
		} else {
			err = fmt.Errorf("batch update: %w", one)
		}
	}
	return size, err
}

func (w *writer) stream(ctx context.Context, n int64) (size int64, err error) {
	d, data := w.fresh(n)
	asked := time.Now()
	if err := w.conn.write(ctx, d, data); err != nil {
		return d.Size, fmt.Errorf("write %s: %w", d, err)
	}
	w.acknowledged(d, asked)
	return d.Size, nil
}

// result puts a result that names some of the latest blobs: of a new action, or a new one of an old.
func (w *writer) result(ctx context.Context) error {
	outputs := w.pick(1 + w.rand.IntN(4))
	if len(outputs) == 0 {
		return nil
	}
	oracle := w.load.oracle
	var action digest.Digest
	if len(w.actions) > 0 && w.rand.IntN(3) == 0 {
		action = w.actions[w.rand.IntN(len(w.actions))]
	} else {
		action = digest.SHA256.Of(binary.LittleEndian.AppendUint64([]byte{'a', 'c', 't', w.load.salt}, w.rand.Uint64()))
		if len(w.actions) >= 64 {
			w.actions = append(w.actions[:0], w.actions[32:]...)
		}
		w.actions = append(w.actions, action)
	}
	v := oracle.next(action)
	result := &repb.ActionResult{}
	closure := outputs
	for i, d := range outputs {
		result.OutputFiles = append(result.OutputFiles, &repb.OutputFile{Path: outputPath(v, i), Digest: wire(d)})
	}
	if w.rand.IntN(2) == 0 {
		result.StdoutDigest = wire(outputs[0])
	}
	if w.rand.IntN(3) == 0 {
		tree, inside, err := w.tree(ctx)
		if err != nil {
			return err
		}
		result.OutputDirectories = []*repb.OutputDirectory{{Path: "dir", TreeDigest: wire(tree)}}
		closure = append(append(closure, tree), inside...)
	}
	oracle.updating(action, closure)
	asked := time.Now()
	if err := w.conn.update(ctx, action, result); err != nil {
		if status.Code(err) == codes.FailedPrecondition && !w.allLeased(closure) {
			return nil
		}
		return fmt.Errorf("update result of %s: %w", action, err)
	}
	oracle.resulted(action, v, asked)
	return nil
}

// tree puts a Tree of one directory and returns what is in it.
func (w *writer) tree(ctx context.Context) (digest.Digest, []digest.Digest, error) {
	inside := w.pick(1 + w.rand.IntN(8))
	root := &repb.Directory{}
	for i, d := range inside {
		root.Files = append(root.Files, &repb.FileNode{Name: fmt.Sprintf("%02d", i), Digest: wire(d)})
	}
	data, err := proto.Marshal(&repb.Tree{Root: root})
	if err != nil {
		return digest.Digest{}, nil, err
	}
	d := digest.SHA256.Of(data)
	w.load.oracle.sending(d, 0)
	asked := time.Now()
	errs, err := w.conn.writeBatch(ctx, []digest.Digest{d}, [][]byte{data})
	if err == nil {
		err = errs[0]
	}
	if err != nil {
		return d, nil, fmt.Errorf("put tree: %w", err)
	}
	w.load.oracle.yes(d, asked)
	return d, inside, nil
}

// pick returns up to n different ones of this writer's latest blobs, whose leases have yet to run for
// half of their time.
func (w *writer) pick(n int) []digest.Digest {
	soon := time.Now().Add(w.load.oracle.lease / 2)
	var ds []digest.Digest
	seen := map[digest.Digest]bool{}
	for range min(n, len(w.blobs)) {
		m := w.blobs[w.rand.IntN(len(w.blobs))]
		if m.until.After(soon) && !seen[m.digest] {
			seen[m.digest] = true
			ds = append(ds, m.digest)
		}
	}
	return ds
}

// allLeased reports whether a server that says now that one of ds is gone breaks its word.
func (w *writer) allLeased(ds []digest.Digest) bool {
	leased := map[digest.Digest]bool{}
	for _, f := range w.load.oracle.promised().blobs {
		leased[f.digest] = true
	}
	for _, d := range ds {
		if !leased[d] {
			return false
		}
	}
	return true
}

// forget makes the writers start anew, for a server with an empty directory.
func (l *load) forget() {
	for _, w := range l.writers {
		w.blobs, w.actions = nil, nil
	}
}
