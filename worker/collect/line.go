package collect

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
)

const (
	// smallFile is the size in bytes up to which a file is read once, into memory, and travels in a batch.
	// A larger one is read twice: hashed first, and sent only if it is missing. That needs no room to spool
	// it, the second reading comes from the page cache, and mostly there is none: outputs of a large size
	// are often there already. Whether both readings saw the same bytes is for the store to check.
	smallFile = 256 << 10
	// A batch goes off when it has as many blobs, or as many bytes of small ones, or as many open files.
	batchBlobs = 1000
	batchBytes = 2 << 20
	batchOpen  = 8
	// readSize is how much of a large file is read at once, in bytes.
	readSize = 256 << 10
	// attempts is how often an upload that the store gives up is tried.
	attempts = 4
)

// A line is what files go through once they are found: hashed, gathered into batches, stored.
type line struct {
	ctx      context.Context
	cancel   context.CancelCauseFunc
	function digest.Function
	to       blob.Batcher
	memory   budget
	files    chan *found
	items    chan *item
	hashers  sync.WaitGroup
	storing  chan struct{} // slots
	stored   chan struct{} // closed when all is
}

// A found is a file to hash.
type found struct {
	node   *node
	file   *os.File
	at     string
	before unix.Stat_t // how it was when it was opened
}

// An item is a blob to store: bytes in memory, or a file that is open.
type item struct {
	digest digest.Digest
	data   []byte
	held   int64 // of the budget
	file   *os.File
	at     string
}

func newLine(ctx context.Context, f digest.Function, to blob.Batcher, o Options) *line {
	l := &line{
		function: f, to: to,
		files: make(chan *found), items: make(chan *item),
		storing: make(chan struct{}, o.Parallel), stored: make(chan struct{}),
	}
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	l.memory.init(l.ctx, o.Memory)
	for range o.Parallel {
		l.hashers.Go(func() {
			var buffer []byte
			for f := range l.files {
				buffer = l.hash(f, buffer)
			}
		})
	}
	go l.gather()
	return l
}

// fail ends the line if err is not nil. The first error counts.
func (l *line) fail(err error) {
	if err != nil {
		l.cancel(err)
	}
}

// err returns why the line ended, nil while it runs.
func (l *line) err() error { return context.Cause(l.ctx) }

// add hands a file on, which the line closes.
func (l *line) add(f *found) {
	select {
	case l.files <- f:
	case <-l.ctx.Done():
		f.file.Close()
	}
}

// hashed says that no more files come, and waits until the digests of all are known.
func (l *line) hashed() error {
	close(l.files)
	l.hashers.Wait()
	return l.err()
}

// bytes hands a blob in memory on.
func (l *line) bytes(d digest.Digest, data []byte) { l.send(&item{digest: d, data: data}) }

// send hands an item on to be stored.
func (l *line) send(i *item) {
	select {
	case l.items <- i:
	case <-l.ctx.Done():
		l.drop(i)
	}
}

// drop gives back what an item holds.
func (l *line) drop(i *item) {
	l.memory.give(i.held)
	if i.file != nil {
		i.file.Close()
	}
}

// finish says that no more blobs come, and waits until all are stored.
func (l *line) finish() error {
	close(l.items)
	<-l.stored
	err := l.err()
	l.cancel(nil)
	return err
}

// hash finds the digest of a file and hands it on. The buffer is for the next call.
func (l *line) hash(f *found, buffer []byte) []byte {
	if l.err() != nil {
		f.file.Close()
		return buffer
	}
	i := &item{at: f.at, file: f.file}
	var err error
	if f.before.Size <= smallFile {
		err = l.hashSmall(f, i)
	} else {
		if len(buffer) == 0 {
			buffer = make([]byte, readSize)
		}
		err = l.hashLarge(f, i, buffer)
	}
	if err == nil {
		err = unchanged(f)
	}
	if f.node.digest = i.digest; i.data != nil {
		i.file.Close()
		i.file = nil
	}
	if err != nil || i.digest.IsEmpty() {
		l.fail(err)
		l.drop(i)
		return buffer
	}
	l.send(i)
	return buffer
}

func (l *line) hashSmall(f *found, i *item) error {
	if err := l.memory.take(f.before.Size); err != nil {
		return err
	}
	i.held = f.before.Size
	i.data = make([]byte, f.before.Size)
	if _, err := io.ReadFull(f.file, i.data); err != nil {
		return readError(f, err)
	}
	i.digest = l.function.Of(i.data)
	return nil
}

func (l *line) hashLarge(f *found, i *item, buffer []byte) error {
	h, size := l.function.NewHash(), int64(0)
	for size < f.before.Size {
		if err := l.err(); err != nil {
			return err
		}
		n, err := io.ReadFull(f.file, buffer[:min(int64(len(buffer)), f.before.Size-size)])
		if err != nil {
			return readError(f, err)
		}
		h.Write(buffer[:n])
		size += int64(n)
	}
	i.digest = sum(l.function, h, size)
	return nil
}

func sum(f digest.Function, h hash.Hash, size int64) digest.Digest {
	d := digest.Digest{Function: f, Size: size}
	h.Sum(d.Hash[:0])
	return d
}

// readError returns why a file could not be read as far as it was long.
func readError(f *found, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return refuse(f.at, "became shorter while it was read")
	}
	return fmt.Errorf("read output %q: %w", f.at, err)
}

// unchanged checks that a file is as it was when it was opened. Whether its inode was linked or unlinked
// meanwhile, which its ctime tells too, is nobody's concern.
func unchanged(f *found) error {
	var after unix.Stat_t
	if err := unix.Fstat(int(f.file.Fd()), &after); err != nil {
		return err
	}
	if (after.Size != f.before.Size || after.Mtim != f.before.Mtim) && !mutant.ChangeUnseen {
		return refuse(f.at, "changed while it was read")
	}
	return nil
}

// A budget is memory that is shared. Who takes holds nothing else of it, so all get some in the end.
type budget struct {
	mu   sync.Mutex
	more *sync.Cond
	free int64
	ctx  context.Context
}

func (b *budget) init(ctx context.Context, n int64) {
	b.more, b.free, b.ctx = sync.NewCond(&b.mu), n, ctx
	context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.more.Broadcast()
	})
}

// take waits until there are n bytes.
func (b *budget) take(n int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.free < n && b.ctx.Err() == nil {
		b.more.Wait()
	}
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	b.free -= n
	return nil
}

func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
	b.more.Broadcast()
}
