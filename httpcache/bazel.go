package httpcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"strings"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/refusal"
	"github.com/sarsen-build/sarsen/internal/zstd"
)

// maxResult bounds an action result as it is sent, in bytes; it is held in memory whole. gRPC takes
// as much in a message. What is left of it without inlined outputs is bounded by action.MaxResult.
const maxResult = 16 << 20

// maxNamed is how many missing blobs of a result a message names.
const maxNamed = 20

// getBlob answers GET and HEAD of a blob. HEAD's yes is a lease; GET gives the bytes.
func (h *handler) getBlob(w *response, r *http.Request, n name) error {
	if r.Method == http.MethodHead {
		missing, err := h.Store.Missing(r.Context(), digest.SetOf(n.digest))
		if err != nil {
			return err
		}
		if missing.Len() > 0 {
			return refusal.New(http.StatusNotFound, "blob %s is not here", n.digest)
		}
	}
	b, err := h.Store.Open(r.Context(), n.digest)
	if errors.Is(err, blob.ErrNotFound) {
		return refusal.New(http.StatusNotFound, "blob %s is not here", n.digest)
	}
	if err != nil {
		return err
	}
	defer b.Close()
	content := &content{ReadSeeker: io.NewSectionReader(b, 0, b.Size())}
	head := w.Header()
	head.Set("Content-Type", "application/octet-stream")
	head.Set("Vary", "Accept-Encoding")
	if b.Size() > 0 && plainGet(r) && wantsZstd(r.Header) {
		// The bytes on the wire may differ from one time to the next, so the tag is a weak one.
		head.Set("ETag", "W/"+etag(n.digest))
		head.Set("Content-Encoding", "zstd")
		if err := compress(w, content); err != nil && content.err == nil {
			return context.Canceled // the client takes no more
		}
		return content.err
	}
	return serve(w, r, n.digest, content)
}

func etag(d digest.Digest) string { return `"` + d.Hex() + `"` }

// serve answers GET or HEAD with d's bytes, or with the range of them that is asked for.
func serve(w *response, r *http.Request, d digest.Digest, c *content) error {
	w.Header().Set("ETag", etag(d))
	switch ranges := strings.TrimSpace(r.Header.Get("Range")); {
	case strings.Contains(ranges, ","), !strings.HasPrefix(ranges, "bytes="):
		// Several ranges at once may be answered with everything, those in other units must be (RFC 9110 section
		// 14.2). ServeContent would read several in a goroutine that can outlive this call, and so the open blob.
		r.Header.Del("Range")
	case ranges == "bytes=-0":
		// The last no bytes can't be served; ServeContent would name a range that ends before it begins.
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-", math.MaxInt64))
	}
	http.ServeContent(w, r, "", time.Time{}, c)
	return c.err
}

// plainGet reports whether a request wants all of a blob whatever it has already. Only such answers
// are compressed: ranges and conditions are about the blob's own bytes, and HEAD is asked for the
// blob's size.
func plainGet(r *http.Request) bool {
	for _, key := range []string{"Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"} {
		if r.Header.Get(key) != "" {
			return false
		}
	}
	return r.Method == http.MethodGet
}

// content remembers the store's failure, which http.ServeContent keeps to itself.
type content struct {
	io.ReadSeeker
	err error
}

func (c *content) Read(p []byte) (int, error) {
	n, err := c.ReadSeeker.Read(p)
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

// compress sends src as one zstd frame, which ends only if src was read to its end.
func compress(w *response, src io.Reader) error {
	out := &valve{w: w}
	z := zstd.NewWriter(out)
	_, err := copyPooled(z, src)
	// Close gives the encoder back, but must not make half a blob look whole.
	out.shut = err != nil
	return errors.Join(err, z.Close())
}

// A valve passes on what is written until it is shut.
type valve struct {
	w    io.Writer
	shut bool
}

func (v *valve) Write(p []byte) (int, error) {
	if v.shut {
		return len(p), nil
	}
	return v.w.Write(p)
}

// putBlob takes PUT of a blob. With a declared size the body streams into the store; without one it
// waits in a file until its size is known.
func (h *handler) putBlob(w *response, r *http.Request, n name) error {
	u, err := openUpload(w, r, h.MaxBlobSize, "; to take larger ones, raise --max-size")
	if err != nil {
		return err
	}
	defer u.Close()
	d := n.digest
	if u.size == digest.AnySize {
		err = h.spool(r.Context(), d, u)
	} else {
		d.Size = u.size
		err = h.stream(r.Context(), d, u)
	}
	if err != nil {
		return err
	}
	whole(w, nil)
	return nil
}

// stream stores body, which has d.Size bytes if all is well, as d.
func (h *handler) stream(ctx context.Context, d digest.Digest, body io.Reader) error {
	if d.Size == 0 {
		return h.takeNothing(d, body)
	}
	w, err := h.Store.Create(ctx, d)
	if err != nil {
		return err
	}
	defer w.Close()
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	var got int64
	for err == nil {
		var n int
		n, err = fill(body, buf[:])
		if err != nil && err != io.EOF {
			return err
		}
		if got += int64(n); n == 0 {
			break
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
	}
	if got != d.Size {
		return refusal.New(http.StatusBadRequest, "the body has %d bytes where %d were declared", got, d.Size)
	}
	return h.advise(d, w.Commit())
}

// takeNothing ends the PUT of a body that was declared to be empty. The empty blob is always there.
func (h *handler) takeNothing(d digest.Digest, body io.Reader) error {
	if n, err := fill(body, make([]byte, 1)); err != nil && err != io.EOF {
		return err
	} else if n > 0 {
		return refusal.New(http.StatusBadRequest, "the body has bytes where none were declared")
	}
	if d.IsEmpty() {
		return nil
	}
	return h.advise(d, blob.Mismatch(d, d.Function.Empty()))
}

// advise adds to a mismatch what it often comes from: Bazel's URLs are the same for every digest
// function of 32 bytes, so a Bazel that was told to use BLAKE3 can't say so over HTTP.
func (h *handler) advise(d digest.Digest, err error) error {
	if d.Function != digest.SHA256 || !errors.Is(err, blob.ErrMismatch) {
		return err
	}
	return refusal.New(http.StatusBadRequest, "%v; a plain hash over HTTP is SHA-256: for BLAKE3 use %s, or PUT /cas/blake3/%s", err, h.grpc(), d.Hex())
}

// getResult answers GET and HEAD of an action result.
func (h *handler) getResult(w *response, r *http.Request, n name) error {
	result, err := h.Actions.Get(r.Context(), n.key())
	if err == blob.ErrNotFound { // that and no more was said
		return refusal.New(http.StatusNotFound, "no result of action %s", n.digest)
	}
	if err != nil {
		return err
	}
	contentType, encode := "application/octet-stream", proto.Marshal
	if wantsJSON(r.Header) {
		contentType, encode = "application/json", protojson.Marshal
	}
	data, err := encode(result)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Vary", "Accept")
	whole(w, data)
	return nil
}

// putResult takes PUT of an action result. What it names must be there already: Bazel and moon
// upload outputs first.
func (h *handler) putResult(w *response, r *http.Request, n name) error {
	u, err := openUpload(w, r, maxResult, "")
	if err != nil {
		return err
	}
	defer u.Close()
	data, err := io.ReadAll(u)
	if err != nil {
		return err
	}
	if u.size != digest.AnySize && u.size != int64(len(data)) {
		return refusal.New(http.StatusBadRequest, "the body has %d bytes where %d were declared", len(data), u.size)
	}
	format, decode := "protobuf; say so if it is JSON, with Content-Type: application/json", proto.Unmarshal
	if isJSON(r.Header) {
		format, decode = "JSON", protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal
	}
	result := new(repb.ActionResult)
	if err := decode(data, result); err != nil {
		return refusal.New(http.StatusBadRequest, "the body is not an ActionResult in %s: %v", format, err)
	}
	if err := h.Actions.Put(r.Context(), n.key(), result); err != nil {
		return explain(err)
	}
	whole(w, nil)
	return nil
}

// explain names what a result lacks, and tells a malformed result from a failing store.
func explain(err error) error {
	if i, ok := errors.AsType[*blob.MissingError](err); ok {
		var b strings.Builder
		b.WriteString(err.Error()) // which names the first
		for _, d := range i.Blobs[1:min(len(i.Blobs), maxNamed)] {
			fmt.Fprintf(&b, "\nalso missing: %s", d)
		}
		if more := len(i.Blobs) - maxNamed; more > 0 {
			fmt.Fprintf(&b, "\nand %d more", more)
		}
		return refusal.New(http.StatusPreconditionFailed, "%s", b.String())
	}
	if f, ok := errors.AsType[*action.FieldError](err); ok && statusOf(err) == http.StatusInternalServerError {
		return refusal.New(http.StatusBadRequest, "malformed action result: %v", f)
	}
	return err
}

// isJSON reports whether a body says that it is JSON.
func isJSON(h http.Header) bool {
	mediaType, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && mediaType == "application/json"
}

// key returns the action cache's key of n. Results are found by hash alone, so the size, which the
// path doesn't carry, makes no difference.
func (n name) key() action.Key { return action.Key{Instance: n.instance, Action: n.digest} }
