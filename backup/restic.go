package backup

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

// restic's REST back end, https://restic.readthedocs.io/en/stable/100_references.html#rest-backend. Each file is a blob,
// which a root of its own keeps: restic/REPOSITORY/TYPE/NAME. Names are the SHA-256 of the bytes, but for config.

// types are the folders of a repository.
var types = map[string]bool{"data": true, "keys": true, "locks": true, "snapshots": true, "index": true}

// The media types of listings.
const (
	listV1 = "application/vnd.x.restic.rest.v1"
	listV2 = "application/vnd.x.restic.rest.v2"
)

// maxConfig bounds a repository's configuration, which is held in memory, in bytes. restic's has some hundred.
const maxConfig = 1 << 20

func (q *request) restic(rest string) error {
	folder, name, _ := strings.Cut(rest, "/")
	switch {
	case rest == "":
		return q.create()
	case rest == "config":
		return q.config()
	case types[folder] && name == "":
		return q.list(folder)
	case types[folder]:
		return q.file(folder, name)
	}
	return refusal.New(http.StatusNotFound, "no such path: a repository has config, data, keys, locks, snapshots and index")
}

// create answers POST of the repository, which needs nothing to be there.
func (q *request) create() error {
	if q.r.Method != http.MethodPost {
		return q.not("POST")
	}
	if q.r.URL.Query().Get("create") != "true" {
		return refusal.New(http.StatusBadRequest, "POST of a repository makes one, with ?create=true")
	}
	q.w.WriteHeader(http.StatusOK)
	return nil
}

// config answers what is done with the configuration, which is written once and has no hash for its name.
func (q *request) config() error {
	root := q.prefix() + "config"
	switch q.r.Method {
	case http.MethodGet, http.MethodHead:
		return q.read(root)
	case http.MethodDelete:
		return q.remove(root, q.rights.delete)
	case http.MethodPost:
	default:
		return q.not("GET, HEAD, POST, DELETE")
	}
	data, err := q.body(maxConfig)
	if err != nil {
		return err
	}
	d := digest.SHA256.Of(data)
	defer q.lock(root)() // two can't both be the first
	was, there, err := q.kept(root)
	if err != nil {
		return err
	}
	if there && !holds(was, d) {
		return refusal.New(http.StatusForbidden, "the repository has a configuration already")
	}
	s, err := q.take(d.Size - was.Bytes)
	if err != nil {
		return err
	}
	defer s.giveBack()
	// The same once more is stored again: it may have turned out to be damaged.
	if err := blob.Put(q.r.Context(), q.Store, d, data); err != nil {
		return err
	}
	if err := q.keep(root, nil, digest.SetOf(d)); err != nil {
		return err
	}
	s.becomes(d.Size - was.Bytes)
	return nil
}

// holds reports whether a root keeps one blob, and this one.
func holds(r blob.Root, d digest.Digest) bool {
	return len(r.Few) == 1 && r.Few[0] == d || len(r.Few) == 0 && r.Count == 0 && d.IsEmpty()
}

// bodyTime is how long a body that is held in memory may take.
const bodyTime = 2 * time.Minute

// A timely reader fails once its time is over.
type timely struct {
	io.Reader
	end time.Time
}

// Read implements io.Reader.
func (r timely) Read(p []byte) (int, error) {
	if time.Now().After(r.end) {
		return 0, os.ErrDeadlineExceeded
	}
	return r.Reader.Read(p)
}

// body returns a small body whole.
func (q *request) body(most int64) ([]byte, error) {
	tooLarge := refusal.New(http.StatusRequestEntityTooLarge, "the body has more than the %d bytes that are taken here", most)
	if q.r.ContentLength > most {
		return nil, tooLarge
	}
	data, err := io.ReadAll(io.LimitReader(timely{q.r.Body, time.Now().Add(bodyTime)}, most+1))
	if err != nil {
		return nil, &refusal.BodyError{Err: err}
	}
	if int64(len(data)) > most {
		return nil, tooLarge
	}
	return data, nil
}

// file answers what is done with one file of a folder.
func (q *request) file(folder, name string) error {
	d, err := digest.New(digest.SHA256, name, digest.AnySize)
	if err != nil {
		return refusal.New(http.StatusNotFound, "%.80q is not the name of a file: want its SHA-256, 64 lower-case hexadecimal digits", name)
	}
	root := q.prefix() + folder + "/" + name
	switch q.r.Method {
	case http.MethodGet, http.MethodHead:
		return q.read(root)
	case http.MethodDelete:
		return q.remove(root, q.rights.delete || folder == "locks")
	case http.MethodPost:
	default:
		return q.not("GET, HEAD, POST, DELETE")
	}
	if d.Size = q.r.ContentLength; d.Size < 0 {
		return refusal.New(http.StatusLengthRequired, "a Content-Length is wanted")
	}
	if d.Size > q.MaxBlobSize {
		return refusal.New(http.StatusRequestEntityTooLarge, "the file has more than the %d bytes that are taken; raise --max-size", q.MaxBlobSize)
	}
	if d.Size == 0 && !d.IsEmpty() {
		return blob.Mismatch(d, digest.SHA256.Empty())
	}
	was, _, err := q.kept(root)
	if err != nil {
		return err
	}
	s, err := q.take(d.Size - was.Bytes)
	if err != nil {
		return err
	}
	defer s.giveBack()
	if err := q.stream(d, bodyReader{q.r.Body}); err != nil {
		return err
	}
	defer q.lock(root)()
	if was, _, err = q.kept(root); err != nil {
		return err
	}
	if err := q.more(s, d.Size-was.Bytes); err != nil { // it was deleted meanwhile
		return err
	}
	// One that is there is kept again: its bytes may have turned out to be damaged, and been healed just now.
	if err := q.keep(root, nil, digest.SetOf(d)); err != nil {
		return err
	}
	s.becomes(d.Size - was.Bytes)
	return nil
}

// kept returns the root of that name, if there is one.
func (q *request) kept(root string) (blob.Root, bool, error) {
	r, err := blob.KeptRoot(q.r.Context(), q.Keeper, root)
	if errors.Is(err, blob.ErrNotFound) {
		return r, false, nil
	}
	return r, err == nil, err
}

// lock makes whoever changes a root wait for who does. It returns what ends that.
func (q *request) lock(root string) (unlock func()) {
	turn := q.locks[sha256.Sum256([]byte(root))[0]]
	turn <- struct{}{}
	return func() { <-turn }
}

// keep keeps what was uploaded whole; whether the client still waits for the answer makes no difference.
func (q *request) keep(root string, value []byte, blobs digest.Set) error {
	return q.Keeper.Keep(context.WithoutCancel(q.r.Context()), root, value, blobs)
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

// A buffer is what bytes are moved through.
type buffer [128 << 10]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// A largeBuffer is for packs: file systems take half the time for bytes that come in a few large writes. Only maxWhole are in
// use at once, whoever else uploads, so that slow clients do not hold much memory.
type largeBuffer [1 << 20]byte

var largeBuffers = sync.Pool{New: func() any { return new(largeBuffer) }}

// bufferFor returns a buffer for an upload of that size, and what gives it back.
func (h *handler) bufferFor(size int64) (b []byte, done func()) {
	if size > int64(len(buffer{})) {
		select {
		case h.large <- struct{}{}:
			large := largeBuffers.Get().(*largeBuffer)
			return large[:], func() {
				largeBuffers.Put(large)
				<-h.large
			}
		default:
		}
	}
	small := buffers.Get().(*buffer)
	return small[:], func() { buffers.Put(small) }
}

// stream stores what r reads as d, verified.
func (q *request) stream(d digest.Digest, r io.Reader) error {
	w, err := q.Store.Create(q.r.Context(), d)
	if err != nil {
		return err
	}
	defer w.Close()
	buf, done := q.bufferFor(d.Size)
	defer done()
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return w.Commit() // which knows whether that was all
		} else if err != nil {
			return err
		}
	}
}

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

// remove answers DELETE: what a root kept is kept no more.
func (q *request) remove(root string, may bool) error {
	if !may {
		return refusal.New(http.StatusForbidden, "%s is append-only: nothing is deleted with this token", q.prefix())
	}
	s, err := q.take(0)
	if err != nil {
		return err
	}
	defer q.lock(root)()
	kept, there, err := q.kept(root)
	if err != nil {
		return err
	}
	// What is not there is let go too: clients delete what they could not store, which a restart might find.
	if err := q.Keeper.Release(context.WithoutCancel(q.r.Context()), root); err != nil {
		return err
	}
	if !there {
		return fmt.Errorf("%w: there is no such file", blob.ErrNotFound)
	}
	s.becomes(-kept.Bytes)
	return nil
}

// list answers GET of a folder: names, and in the second version sizes too.
func (q *request) list(folder string) error {
	if q.r.Method != http.MethodGet && q.r.Method != http.MethodHead {
		return q.not("GET, HEAD")
	}
	second := strings.Contains(q.r.Header.Get("Accept"), listV2)
	type file struct {
		Name string `json:"name"`
		Size int64  `json:"size"`
	}
	names, files := []string{}, []file{}
	prefix := q.prefix() + folder + "/"
	for root, err := range q.Keeper.Kept(q.r.Context(), prefix) {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(root.Name, prefix)
		names, files = append(names, name), append(files, file{name, root.Bytes})
	}
	var answer any = names
	mediaType := listV1
	if second {
		answer, mediaType = files, listV2
	}
	data, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	q.w.Header().Set("Content-Type", mediaType)
	q.w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	_, _ = q.w.Write(data) // the client is gone; net/http closes the connection
	return nil
}
