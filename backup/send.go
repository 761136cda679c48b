package backup

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// read answers GET and HEAD of what a root keeps, or of a range of it.
func (q *request) read(root string) error {
	kept, err := blob.KeptRoot(q.r.Context(), q.Keeper, root)
	if err != nil {
		return err
	}
	d := digest.SHA256.Empty()
	if len(kept.Few) == 1 {
		d = kept.Few[0]
	}
	return q.send(d)
}

// send answers GET and HEAD with the bytes of a blob.
func (q *request) send(d digest.Digest) error {
	b, err := q.Store.Open(q.r.Context(), d)
	if errors.Is(err, blob.ErrNotFound) {
		return fmt.Errorf("%w: it is damaged; upload it again", err)
	}
	if err != nil {
		return err
	}
	defer b.Close()
	header := q.w.Header()
	header.Set("Content-Type", "application/octet-stream")
	if strings.Contains(q.r.Header.Get("Range"), ",") {
		q.r.Header.Del("Range") // several may be answered with everything (RFC 9110 section 14.2)
	}
	c := &content{Reader: b}
	// The name is empty and the time zero, so that nothing is sniffed or compared.
	http.ServeContent(q.w, q.r, "", time.Time{}, c)
	if c.err != nil {
		q.Log.Error("a kept file can't be read", "path", q.r.URL.Path, "err", c.err)
		panic(http.ErrAbortHandler) // only a cut connection tells the client now
	}
	return nil
}

// content reads a blob, and remembers the store's failure, which http.ServeContent keeps to itself. A read ends where a
// block does: stores verify whole blocks, and one that two reads share would be read twice.
type content struct {
	blob.Reader
	pos int64
	err error
}

const block = 64 << 10

// Read implements io.Reader.
func (c *content) Read(p []byte) (int, error) {
	if most := block - c.pos%block; int64(len(p)) > most {
		p = p[:most+(int64(len(p))-most)/block*block]
	}
	n, err := c.ReadAt(p, c.pos)
	c.pos += int64(n)
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

// Seek implements io.Seeker.
func (c *content) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += c.pos
	case io.SeekEnd:
		offset += c.Size()
	}
	c.pos = offset
	return offset, nil
}
