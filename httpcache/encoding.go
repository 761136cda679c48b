package httpcache

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/refusal"
	"github.com/sarsen-build/sarsen/internal/zstd"
)

// sizeHeader says how many bytes a PUT's body has once it is decoded. bazel-remote introduced it.
const sizeHeader = "X-Digest-SizeBytes"

// An upload is the body of a PUT, decoded.
type upload struct {
	io.Reader
	size  int64 // bytes after decoding, or digest.AnySize if the client didn't say
	close func() error
}

// openUpload looks at the headers of a PUT and returns its body, of which nothing is read before the
// first Read. Bodies of more than max bytes after decoding are refused, at once if the headers say
// so, with a hint at what sets max. So are parts of bodies. The caller must close the upload.
func openUpload(w *response, r *http.Request, max int64, hint string) (*upload, error) {
	if r.Header.Get("Content-Range") != "" {
		return nil, refusal.New(http.StatusBadRequest, "a body is taken whole, not in the part that Content-Range names")
	}
	encoded, err := isZstd(r.Header)
	if err != nil {
		return nil, err
	}
	size, err := declaredSize(r, encoded)
	if err != nil {
		return nil, err
	}
	tooLarge := refusal.New(http.StatusRequestEntityTooLarge, "the body has more than the %d bytes that are taken%s", max, hint)
	if size > max || encoded && r.ContentLength > zstd.MaxEncoded(max) {
		return nil, tooLarge
	}
	limit, over := max, tooLarge
	if size != digest.AnySize {
		limit, over = size, refusal.New(http.StatusBadRequest, "the body has more than the %d bytes that were declared", size)
	}
	if !encoded {
		return &upload{&bounded{w.body, limit, over}, size, nothing}, nil
	}
	src := &source{Reader: w.body}
	z := zstd.NewReader(src, limit)
	return &upload{&decoding{z, src, over}, size, z.Close}, nil
}

// Close gives the decoder back.
func (u *upload) Close() error { return u.close() }

func nothing() error { return nil }

// isZstd reports whether a PUT's body is compressed, and refuses other encodings.
func isZstd(h http.Header) (bool, error) {
	encoding := strings.TrimSpace(strings.Join(h.Values("Content-Encoding"), ","))
	switch strings.ToLower(encoding) {
	case "", "identity":
		return false, nil
	case "zstd":
		return true, nil
	}
	return false, refusal.New(http.StatusUnsupportedMediaType, "content encoding %.40q is not taken, only zstd and identity", encoding)
}

// declaredSize returns the size of a PUT's body after decoding, or digest.AnySize.
func declaredSize(r *http.Request, encoded bool) (int64, error) {
	size := int64(digest.AnySize)
	if !encoded {
		size = r.ContentLength // -1 if the body is chunked
	}
	header := r.Header.Get(sizeHeader)
	if header == "" {
		return size, nil
	}
	n, err := strconv.ParseUint(header, 10, 63)
	if err != nil {
		return 0, refusal.New(http.StatusBadRequest, "%s: %.40q is not a number of bytes", sizeHeader, header)
	}
	if size >= 0 && size != int64(n) {
		return 0, refusal.New(http.StatusBadRequest, "%s says %d bytes, Content-Length %d", sizeHeader, n, size)
	}
	return int64(n), nil
}

// bounded fails with over after left bytes if there are more.
type bounded struct {
	io.Reader
	left int64
	over error
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if int64(n) > b.left {
		return int(b.left), b.over
	}
	b.left -= int64(n)
	return n, err
}

// A source remembers its error, which the decoder may turn into one of its own.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != io.EOF {
		s.err = err
	}
	return n, err
}

// decoding returns the error of whoever is to blame: the source, the client or the frame.
type decoding struct {
	*zstd.Reader
	src  *source
	over error
}

func (d *decoding) Read(p []byte) (int, error) {
	n, err := d.Reader.Read(p)
	switch {
	case err == nil || err == io.EOF:
	case d.src.err != nil:
		err = d.src.err
	case errors.Is(err, zstd.ErrTooLong):
		err = d.over
	default:
		err = &refusal.BodyError{Err: err}
	}
	return n, err
}

// wantsZstd reports whether an Accept-Encoding asks for zstd. Other encodings are not made: gzip
// would cost more than it saves, and identity is always understood.
func wantsZstd(h http.Header) bool {
	q := qualities(h.Values("Accept-Encoding"))
	return q["zstd"] > 0 && q["zstd"] >= q["identity"]
}

// wantsJSON reports whether an Accept asks for JSON. A wildcard does not.
func wantsJSON(h http.Header) bool {
	q := qualities(h.Values("Accept"))
	return q["application/json"] > 0 && q["application/json"] >= q["application/octet-stream"]
}

// qualities reads the lists in Accept headers (RFC 9110 section 12.4.2). What is not well-formed has quality 0.
func qualities(lists []string) map[string]float64 {
	q := map[string]float64{}
	for _, list := range lists {
		for item := range strings.SplitSeq(list, ",") {
			value, parameters, _ := strings.Cut(item, ";")
			q[strings.ToLower(strings.TrimSpace(value))] = quality(parameters)
		}
	}
	return q
}

func quality(parameters string) float64 {
	for p := range strings.SplitSeq(parameters, ";") {
		key, value, _ := strings.Cut(p, "=")
		if !strings.EqualFold(strings.TrimSpace(key), "q") {
			continue
		}
		if f, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil && f >= 0 && f <= 1 {
			return f
		}
		return 0
	}
	return 1
}
