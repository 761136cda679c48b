package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/chunk"
	"github.com/sarsen-build/sarsen/client"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/snapshotpb"
	"github.com/sarsen-build/sarsen/upstream"
)

// Options say how Create reads a directory.
type Options struct {
	Function digest.Function
	Excludes Excludes
	// Before is the root of an earlier snapshot of the same directory, or zero. Of a file that was there with the same
	// size and time, and did not change since, nothing is read; of a large one that changed, the server is asked for the chunks.
	Before digest.Digest
	// BeforeTime is when the reading of Before began, by this machine's clock, or zero. What was written, or got another
	// time or name, since then or shortly before is read, whatever time it says that it has.
	BeforeTime time.Time
	// Dry says to send nothing.
	Dry bool
	// Skipped is called for each thing that can't be kept, one after the other. It may be nil.
	Skipped func(name string, why error)
	Counts  *Counts
}

// An uploader uploads one directory.
type uploader struct {
	Options
	client *client.Client
	cutter *chunk.Cutter // or nil
	store  *upstream.Store
	root   *os.Root
	before map[string]*repb.FileNode // by path
	mu     sync.Mutex                // held while Skipped is called

	small, large []*file
	smallBytes   int64
	blobs        []digest.Digest // of the lot: directories and small files
	data         [][]byte
}

// A file is one whose node lacks the digest.
type file struct {
	name string // slashed, relative to the top
	node *repb.FileNode
	size int64
	// changed is when its bytes, its times or its name changed last, which nobody can set.
	changed time.Time
}

// upload stores the directory dir and all below it on the server, leased, and returns the digest of its root.
func upload(ctx context.Context, c *client.Client, dir string, o Options) (digest.Digest, error) {
	if o.Counts == nil {
		o.Counts = new(Counts)
	}
	top, err := os.OpenRoot(dir)
	if err != nil {
		return digest.Digest{}, err
	}
	defer top.Close()
	u := &uploader{Options: o, client: c, cutter: c.Cutter(), store: c.Store(), root: top, before: map[string]*repb.FileNode{}}
	if o.Before != (digest.Digest{}) {
		if err := u.remember(ctx); err != nil {
			return digest.Digest{}, err
		}
	}
	root, err := u.walk(ctx, top, "")
	if err == nil {
		err = u.flush(ctx)
	}
	if err != nil {
		return digest.Digest{}, err
	}
	// Digests of files are known only here, so directories are made from the leaves up.
	d, err := u.finish(ctx, root, "")
	if err == nil {
		err = u.send(ctx)
	}
	return d, err
}

// Create uploads dir and makes the server keep it as s says, whose root and counts it sets. It returns what the server
// made of that. What was evicted meanwhile, because its lease was shorter than the upload, is sent again.
func Create(ctx context.Context, c *client.Client, dir string, s *snapshotpb.Snapshot, o Options) (*snapshotpb.Snapshot, error) {
	if o.Counts == nil {
		o.Counts = new(Counts)
	}
	const tries = 3
	for try := 1; ; try++ {
		for _, n := range []*atomic.Int64{&o.Counts.Files, &o.Counts.Directories, &o.Counts.Symlinks, &o.Counts.Bytes} {
			n.Store(0)
		}
		root, err := upload(ctx, c, dir, o)
		if err != nil {
			return nil, err
		}
		s.Root, s.DigestFunction = upstream.ToProto(root), repb.DigestFunction_Value(o.Function)
		s.Files, s.Directories, s.Symlinks = o.Counts.Files.Load(), o.Counts.Directories.Load(), o.Counts.Symlinks.Load()
		s.Bytes, s.SentBytes = o.Counts.Bytes.Load(), o.Counts.Moved.Load()
		if o.Dry {
			return s, nil
		}
		kept, err := c.KeepSnapshot(ctx, s)
		if err == nil || try == tries || status.Code(err) != codes.FailedPrecondition {
			return kept, err
		}
	}
}

// remember reads the tree of the snapshot before.
func (u *uploader) remember(ctx context.Context) error {
	tree, err := u.client.Tree(ctx, u.Before)
	if errors.Is(err, blob.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return walkTree(tree, func(name string, n *node) error {
		if n.file != nil {
			u.before[name] = n.file
		}
		return nil
	})
}

// slack is how exact, at least, a file system's times are.
const slack = 2 * time.Second

// file puts f into a lot, unless it is as it was.
func (u *uploader) file(ctx context.Context, f *file) error {
	u.Counts.Files.Add(1)
	u.Counts.Bytes.Add(f.size)
	if b := u.before[f.name]; b != nil && f.changed.Before(u.BeforeTime.Add(-slack)) && b.Digest.GetSizeBytes() == f.size && proto.Equal(b.GetNodeProperties().GetMtime(), f.node.NodeProperties.Mtime) {
		f.node.Digest = b.Digest
	}
	if f.size <= smallFile {
		u.small = append(u.small, f)
		u.smallBytes += f.size
	} else {
		u.large = append(u.large, f)
	}
	if u.smallBytes >= lotBytes || len(u.small)+len(u.large) >= lotFiles {
		return u.flush(ctx)
	}
	return nil
}

// flush hashes what waits and sends what the server lacks.
func (u *uploader) flush(ctx context.Context) error {
	small, large := u.small, u.large
	u.small, u.large, u.smallBytes = nil, nil, 0
	known, err := u.leaseKnown(ctx, append(small[:len(small):len(small)], large...))
	if err != nil {
		return err
	}
	for _, f := range small {
		if known[f] {
			continue
		}
		data, err := u.readSmall(f)
		if unreadable(err) {
			u.leaveOut(f, err)
			continue
		}
		if err != nil {
			return err
		}
		if len(data) > smallFile {
			large = append(large, f)
			continue
		}
		u.add(f, data)
	}
	if err := u.send(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for _, f := range large {
		if known[f] {
			continue
		}
		group.Go(func() error {
			err := u.sendLarge(ctx, f)
			if unreadable(err) || errors.Is(err, errChanged) {
				u.leaveOut(f, err)
				err = nil
			}
			return err
		})
	}
	return group.Wait()
}

// leaveOut makes finish drop f, for want of a digest.
func (u *uploader) leaveOut(f *file, why error) {
	f.node.Digest = nil
	u.skip(f.name, why)
}

// leaseKnown returns which files have a digest whose blob the server has.
func (u *uploader) leaseKnown(ctx context.Context, files []*file) (map[*file]bool, error) {
	digests := map[*file]digest.Digest{}
	var all digest.Set
	for _, f := range files {
		if f.node.Digest == nil {
			continue
		}
		d, err := digestOf(u.Function, f.node.Digest)
		if err != nil {
			continue // of another digest function
		}
		digests[f] = d
		all.Add(d)
	}
	missing, err := u.client.Missing(ctx, all)
	known := map[*file]bool{}
	for f, d := range digests {
		known[f] = !missing.Has(d)
	}
	return known, err
}

// add names the bytes of a small file or a directory, to be sent.
func (u *uploader) add(f *file, data []byte) {
	d := u.Function.Of(data)
	f.node.Digest = upstream.ToProto(d)
	u.blobs, u.data = append(u.blobs, d), append(u.data, data)
}

// send sends what add was given and the server lacks.
func (u *uploader) send(ctx context.Context) error {
	missing, err := u.client.Missing(ctx, digest.SetOf(u.blobs...))
	if err != nil {
		return err
	}
	var ds []digest.Digest
	var data [][]byte
	var once digest.Set
	for i, d := range u.blobs {
		if missing.Has(d) && once.Add(d) {
			ds, data = append(ds, d), append(data, u.data[i])
			u.Counts.Moved.Add(d.Size)
		}
	}
	u.blobs, u.data = nil, nil
	if u.Dry {
		return nil
	}
	return errors.Join(u.store.PutAll(ctx, ds, data)...)
}

// sendLarge cuts a file and sends the chunks that the server lacks. A file that changes meanwhile is read again.
func (u *uploader) sendLarge(ctx context.Context, f *file) error {
	const tries = 3
	for try := 1; ; try++ {
		sent, err := u.trySendLarge(ctx, f)
		u.Counts.Moved.Add(sent)
		if err == nil || try == tries || ctx.Err() != nil || !errors.Is(err, errChanged) {
			return err
		}
	}
}

// errChanged says that a file changed while it was read.
var errChanged = errors.New("the file changed while it was read")

func (u *uploader) trySendLarge(ctx context.Context, f *file) (sent int64, err error) {
	source, err := u.open(f)
	if err != nil {
		return 0, err
	}
	defer source.Close()
	cut, err := client.NewCut(source, u.Function, u.cutter)
	if err != nil {
		return 0, err
	}
	f.node.Digest = upstream.ToProto(cut.Digest)
	missing, err := u.client.Missing(ctx, digest.SetOf(cut.Digest))
	if err != nil || missing.Len() == 0 {
		return 0, err
	}
	if u.Dry {
		return cut.Digest.Size, nil
	}
	if b := u.before[f.name]; b != nil && u.cutter != nil {
		if d, err := digestOf(u.Function, b.Digest); err == nil {
			_, _ = u.client.Chunks(ctx, d) // a hint: without it there is more to send
		}
	}
	sent, err = u.client.PutCut(ctx, cut, source)
	if err != nil {
		// Its time may be as it was: a mapped file's changes late.
		if (errors.Is(err, blob.ErrMismatch) || status.Code(err) == codes.InvalidArgument) && changed(source, cut.Digest) {
			err = errors.Join(errChanged, err)
		}
		err = fmt.Errorf("%s: %w", f.name, err)
	}
	return sent, err
}

// changed reports whether source has other bytes than those of d now.
func changed(source *os.File, d digest.Digest) bool {
	cut, err := client.NewCut(io.NewSectionReader(source, 0, d.Size), d.Function, nil)
	return err == nil && cut.Digest != d
}

// maxDirectory is how many bytes a directory's message may have for the server to read it: those of some 100,000 files.
const maxDirectory = 16 << 20

// finish names all directories below d, whose path is name, and d itself, and sends them as lots fill.
func (u *uploader) finish(ctx context.Context, d *directory, name string) (digest.Digest, error) {
	for i, child := range d.children {
		c, err := u.finish(ctx, child, path.Join(name, d.message.Directories[i].Name))
		if err != nil {
			return c, err
		}
		d.message.Directories[i].Digest = upstream.ToProto(c)
	}
	d.message.Files = slices.DeleteFunc(d.message.Files, func(n *repb.FileNode) bool { return n.Digest == nil })
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(d.message)
	if err != nil {
		return digest.Digest{}, err
	}
	if len(data) > maxDirectory {
		return digest.Digest{}, fmt.Errorf("directory %q has too many entries: it would be a message of %d bytes, at most %d are taken", name, len(data), maxDirectory)
	}
	named := &file{node: new(repb.FileNode)}
	u.add(named, data)
	if len(u.blobs) >= lotFiles {
		if err := u.send(ctx); err != nil {
			return digest.Digest{}, err
		}
	}
	return digestOf(u.Function, named.node.Digest)
}
