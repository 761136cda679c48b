package server

import (
	"container/list"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// limits bounds the uploads that no stream is writing. They hold room in the store, so what they are
// counted with is their declared size. The one that broke off last is kept whatever its size: it is
// the large ones that are worth going on with.
type limits struct {
	count int
	bytes int64
	time  time.Duration
}

var uploadLimits = limits{count: 1000, bytes: 256 << 20, time: 2 * time.Minute}

// uploads is the table of unfinished uploads by resource name. Compressed ones are not in it.
type uploads struct {
	limits limits

	mu        sync.Mutex
	byName    map[string]*upload
	idle      list.List // of *upload that no stream is writing, the longest idle first
	idleBytes int64
	closed    bool
}

// An upload is the part of a blob that was received under one resource name.
//
// A stream claims it, and the newest claim is the one that counts: a client whose connection broke
// comes back long before this side has noticed, and must not be turned away for the sake of a stream
// that nobody feeds any more. The older stream finds out when it next tries to write.
type upload struct {
	name   string
	digest digest.Digest
	claims atomic.Int64 // how often it was claimed; written under uploads.mu
	size   atomic.Int64 // bytes received

	// Under uploads.mu: its place among the idle ones, nil if a stream is writing it, and what ends
	// that.
	place  *list.Element
	expiry *time.Timer

	turn   chan struct{} // held while one stream uses writer; a channel, for it is held across I/O
	writer blob.Writer   // nil before begin and after finished
	gone   bool          // committed or abandoned, and out of the table
}

var (
	errTakenOver = status.Error(codes.Aborted, "another stream has taken over this upload")
	// errFinished says that an upload ended between claim and begin.
	errFinished = errors.New("upload finished by another stream")
)

func newUploads(l limits) *uploads {
	return &uploads{limits: l, byName: map[string]*upload{}}
}

// claim returns the upload of name, made if need be, for the caller to write. The caller must
// release it.
func (us *uploads) claim(name string, d digest.Digest) (u *upload, claim int64) {
	us.mu.Lock()
	defer us.mu.Unlock()
	u = us.byName[name]
	if u == nil {
		u = &upload{name: name, digest: d, turn: make(chan struct{}, 1)}
		us.byName[name] = u
	}
	us.wake(u)
	return u, u.claims.Add(1)
}

// release ends a claim. An upload that has some bytes and not all, and that no newer stream has
// claimed, is kept for a while.
func (us *uploads) release(u *upload, claim int64) {
	u.lock()
	gone := u.gone
	u.unlock()

	us.mu.Lock()
	var drop []*upload
	switch {
	case gone && us.byName[u.name] == u:
		delete(us.byName, u.name)
	case gone || u.claims.Load() != claim:
	case us.closed || u.size.Load() == 0:
		delete(us.byName, u.name)
		drop = append(drop, u)
	default:
		place := us.idle.PushBack(u)
		u.place = place
		us.idleBytes += u.digest.Size
		u.expiry = time.AfterFunc(us.limits.time, func() { us.expire(u, place) })
		for us.idle.Len() > 1 && (us.idle.Len() > us.limits.count || us.idleBytes > us.limits.bytes) {
			drop = append(drop, us.remove(us.idle.Front().Value.(*upload)))
		}
	}
	us.mu.Unlock()
	for _, u := range drop {
		u.drop()
	}
}

// wake takes u from the idle ones. us.mu is held.
func (us *uploads) wake(u *upload) {
	if u.place != nil {
		us.idle.Remove(u.place)
		us.idleBytes -= u.digest.Size
		u.place = nil
		u.expiry.Stop()
	}
}

// remove takes the idle u out of the table. us.mu is held; the caller drops u without it.
func (us *uploads) remove(u *upload) *upload {
	us.wake(u)
	delete(us.byName, u.name)
	return u
}

// expire drops u if it has been idle at place all the time.
func (us *uploads) expire(u *upload, place *list.Element) {
	us.mu.Lock()
	idle := u.place == place
	if idle {
		us.remove(u)
	}
	us.mu.Unlock()
	if idle {
		u.drop()
	}
}

// forget drops the upload of name if no stream is writing it.
func (us *uploads) forget(name string) {
	us.mu.Lock()
	u := us.byName[name]
	idle := u != nil && u.place != nil
	if idle {
		us.remove(u)
	}
	us.mu.Unlock()
	if idle {
		u.drop()
	}
}

// received returns how many bytes of the upload of name are here.
func (us *uploads) received(name string) int64 {
	us.mu.Lock()
	defer us.mu.Unlock()
	if u := us.byName[name]; u != nil {
		return u.size.Load()
	}
	return 0
}

// kept returns how many uploads are idle, and their declared sizes in all.
func (us *uploads) kept() (count int, bytes int64) {
	us.mu.Lock()
	defer us.mu.Unlock()
	return us.idle.Len(), us.idleBytes
}

// close drops all idle uploads, and from now on keeps none.
func (us *uploads) close() {
	us.mu.Lock()
	us.closed = true
	var drop []*upload
	for us.idle.Len() > 0 {
		drop = append(drop, us.remove(us.idle.Front().Value.(*upload)))
	}
	us.mu.Unlock()
	for _, u := range drop {
		u.drop()
	}
}

func (u *upload) lock()   { u.turn <- struct{}{} }
func (u *upload) unlock() { <-u.turn }

// use locks u for the stream with that claim.
func (u *upload) use(claim int64) error {
	u.lock()
	if u.claims.Load() != claim {
		u.unlock()
		return errTakenOver
	}
	return nil
}

// finish closes the writer. u's turn is held; release then takes u out of the table.
func (u *upload) finish() {
	if u.writer != nil {
		u.writer.Close()
		u.writer = nil
	}
	u.gone = true
}

func (u *upload) drop() {
	u.lock()
	defer u.unlock()
	u.finish()
}

// begin readies u for writing, and returns how many bytes it has.
func (u *upload) begin(ctx context.Context, store blob.Store, claim int64) (received int64, err error) {
	if err := u.use(claim); err != nil {
		return 0, err
	}
	defer u.unlock()
	if u.gone {
		return 0, errFinished
	}
	if u.writer == nil {
		if u.writer, err = store.Create(ctx, u.digest); err != nil {
			u.writer = nil // whatever was returned beside the error
			u.finish()
			return 0, err
		}
	}
	return u.size.Load(), nil
}

// write adds what of data is new, given that data begins at offset, which is not beyond what was
// received. It returns how many bytes the upload has now. A failed one is gone.
func (u *upload) write(claim, offset int64, data []byte) (received int64, err error) {
	if err := u.use(claim); err != nil {
		return 0, err
	}
	defer u.unlock()
	received = u.size.Load()
	if u.gone {
		return received, errTakenOver
	}
	if end := offset + int64(len(data)); end > u.digest.Size {
		u.finish()
		return received, invalid("data: reaches to offset %d, but the blob has %d bytes", end, u.digest.Size)
	}
	if skip := received - offset; skip >= int64(len(data)) {
		return received, nil
	} else if skip > 0 {
		data = data[skip:]
	}
	if _, err := u.writer.Write(data); err != nil {
		u.finish()
		return received, err
	}
	received += int64(len(data))
	u.size.Store(received)
	return received, nil
}

// commit makes the blob present, if it is whole and right. Either way the upload is gone.
func (u *upload) commit(claim int64) error {
	if err := u.use(claim); err != nil {
		return err
	}
	defer u.unlock()
	if u.gone {
		return errTakenOver
	}
	defer u.finish()
	if received := u.size.Load(); received < u.digest.Size {
		return invalid("finish_write: set after %d bytes of the %d in the resource name", received, u.digest.Size)
	}
	return u.writer.Commit()
}

// abandon ends an upload whose blob has come another way.
func (u *upload) abandon(claim int64) {
	if u.use(claim) == nil {
		defer u.unlock()
		u.finish()
	}
}

// incoming is the stream of messages of one Write call, checked against the rules for their fields.
type incoming struct {
	stream   grpc.ServerStream
	received *traffic

	resourceName string
	name         resource
	start        int64 // write_offset of the first message
	expect       int64 // write_offset of the next one
	msg          writeRequest
	rest         []byte // what Read has not yet returned of msg
	err          error  // what ended Read
}

// first receives the first message, which says what the stream is about.
func (in *incoming) first() error {
	err := in.stream.RecvMsg(&in.msg)
	if errors.Is(err, io.EOF) {
		return invalid("the stream ended before its first message")
	}
	if err != nil {
		return err
	}
	if in.msg.resourceName == "" {
		return invalid("resource_name: missing in the first message")
	}
	if in.name, err = parseWrite(in.msg.resourceName); err != nil {
		return err
	}
	if in.msg.writeOffset < 0 {
		return invalid("write_offset: %d is negative", in.msg.writeOffset)
	}
	// Offsets of a compressed upload count its compressed bytes, which have no known end.
	if !in.name.compressed && in.msg.writeOffset > in.name.digest.Size {
		return invalid("write_offset: %d is beyond the end of the blob of %d bytes", in.msg.writeOffset, in.name.digest.Size)
	}
	in.resourceName = in.msg.resourceName
	in.start, in.expect = in.msg.writeOffset, in.msg.writeOffset
	in.took()
	return nil
}

// next receives another message. It returns io.EOF when the client has closed the stream.
func (in *incoming) next() error {
	if err := in.stream.RecvMsg(&in.msg); err != nil {
		return err
	}
	if name := in.msg.resourceName; name != "" && name != in.resourceName {
		return invalid("resource_name: %q, but the stream began with %q", clip(name), clip(in.resourceName))
	}
	if in.msg.writeOffset != in.expect {
		return invalid("write_offset: %d, but the messages before end at %d", in.msg.writeOffset, in.expect)
	}
	in.took()
	return nil
}

func (in *incoming) took() {
	in.rest = in.msg.data
	in.expect += int64(len(in.msg.data))
	in.received.add(len(in.msg.data), in.name.compressed)
}

// Read returns the data of all messages up to finish_write.
func (in *incoming) Read(p []byte) (int, error) {
	for len(in.rest) == 0 {
		if in.err == nil && in.msg.finishWrite {
			return 0, io.EOF
		}
		if in.err == nil {
			in.err = in.next()
		}
		if in.err != nil {
			return 0, in.err
		}
	}
	n := copy(p, in.rest)
	in.rest = in.rest[n:]
	return n, nil
}

// unfinished reports whether the client closed the stream without finish_write.
func (in *incoming) unfinished() bool { return errors.Is(in.err, io.EOF) }

// whole reports whether the first message has the blob from end to end.
func (in *incoming) whole() bool {
	return in.msg.finishWrite && in.start == 0 && int64(len(in.msg.data)) == in.name.digest.Size
}

// early returns the committed size that says that the blob was already there.
func (in *incoming) early() int64 {
	if in.name.compressed {
		return -1
	}
	return in.name.digest.Size
}
