package httpcache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"net/http"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

// A received body has come whole, and only now its digest is known. A small one waits in memory, a larger one in a
// file.
type received struct {
	digest digest.Digest
	data   []byte   // if there is no file
	buf    *buffer  // that data lies in, or nil
	file   *spooled // or nil
}

var errNoSpool = refusal.New(http.StatusInsufficientStorage, "uploads that are under way fill the room that they share")

// receive takes all of u. If it fails, nothing is left of what came.
func (h *handler) receive(u *upload) (*received, error) {
	if u.size > max(int64(len(buffer{})), h.spoolLeft.Load()) {
		return nil, errNoSpool
	}
	buf := buffers.Get().(*buffer)
	n, err := fill(u, buf[:])
	if err == io.EOF {
		return (&received{digest: digest.SHA256.Of(buf[:n]), data: buf[:n], buf: buf}).checked(u)
	}
	defer buffers.Put(buf)
	if err != nil {
		return nil, err
	}
	f, err := h.newSpool(errNoSpool)
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	to := io.MultiWriter(f, sum)
	if _, err = to.Write(buf[:n]); err == nil {
		_, err = copyThrough(buf, to, u)
	}
	if err != nil && !mutant.CutStored {
		f.Close()
		return nil, err
	}
	d := digest.Digest{Function: digest.SHA256, Hash: [32]byte(sum.Sum(nil)), Size: f.taken}
	return (&received{digest: d, file: f}).checked(u)
}

// receivedWhole returns data as if it had been received.
func receivedWhole(data []byte) *received {
	return &received{digest: digest.SHA256.Of(data), data: data}
}

// checked returns r if what came is what was declared, and else closes it.
func (r *received) checked(u *upload) (*received, error) {
	if u.size == digest.AnySize || u.size == r.digest.Size {
		return r, nil
	}
	r.Close()
	return nil, refusal.New(http.StatusBadRequest, "the body has %d bytes where %d were declared", r.digest.Size, u.size)
}

// all reads what came.
func (r *received) all() io.Reader {
	if r.file != nil {
		return r.file.all()
	}
	return bytes.NewReader(r.data)
}

// Close gives back what r waits in.
func (r *received) Close() error {
	if r.buf != nil {
		buffers.Put(r.buf)
	}
	if r.file != nil {
		return r.file.Close()
	}
	return nil
}

// store puts r's bytes into the store, which needs them only if it has none like them.
func (h *handler) store(ctx context.Context, r *received) error {
	missing, err := h.Store.Missing(ctx, digest.SetOf(r.digest))
	if err != nil || missing.Len() == 0 {
		return err
	}
	return h.stream(ctx, r.digest, r.all())
}
