package pbs

import (
	"archive/tar"
	"archive/zip"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/sarsen-build/sarsen/backup/pbs/format"
	"github.com/sarsen-build/sarsen/backup/pbs/pxar"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

// The REST calls that look into archives. What is encrypted only its client can read.

// maxBrowsers is how many of these calls read at once, each with some chunks in memory.
const maxBrowsers = 4

// A plainArchive reads an archive's bytes from its chunks, and remembers the last few of them.
type plainArchive struct {
	ctx    context.Context
	store  *datastore
	index  *format.Index
	chunks format.ChunkList
	recent []plainChunk // the last used one last
}

type plainChunk struct {
	i    int
	data []byte
}

// maxRecent is how many chunks are remembered: a walk goes on in one and looks something up in another.
const maxRecent = 3

// openArchive returns the bytes of an archive of a snapshot.
func (d *datastore) openArchive(ctx context.Context, s *snapshot, name string) (*plainArchive, error) {
	f, ok := s.file(name)
	if !ok || !strings.HasSuffix(name, ".didx") {
		return nil, refusal.New(http.StatusNotFound, "snapshot %s has no archive '%s'", s.name, name)
	}
	if f.Crypt == "encrypt" {
		return nil, badRequest("cannot decode '%s' - is encrypted", name)
	}
	x, _, err := d.index(ctx, f)
	if err != nil {
		return nil, err
	}
	chunks, err := d.chunks(ctx, s)
	return &plainArchive{ctx: ctx, store: d, index: x, chunks: chunks}, err
}

func (a *plainArchive) size() int64 { return int64(a.index.Size) }

// ReadAt implements io.ReaderAt, for one goroutine.
func (a *plainArchive) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		at := uint64(off) + uint64(n)
		if off < 0 || at >= a.index.Size {
			return n, io.EOF
		}
		i := a.index.Find(at)
		data, err := a.chunk(i)
		if err != nil {
			return n, err
		}
		begin, _ := a.index.Bounds(i)
		n += copy(p[n:], data[at-begin:])
	}
	return n, nil
}

func (a *plainArchive) chunk(i int) ([]byte, error) {
	for k, c := range a.recent {
		if c.i == i {
			a.recent = append(append(a.recent[:k:k], a.recent[k+1:]...), c)
			return c.data, nil
		}
	}
	c, ok := a.chunks.Find(a.index.Digests[i])
	begin, end := a.index.Bounds(i)
	switch {
	case !ok || uint64(c.Size) != end-begin:
		return nil, blob.ErrCorrupt
	case c.Encrypted:
		return nil, badRequest("cannot decode the archive - is encrypted")
	}
	b := blobOf(c)
	body, err := a.store.load(a.ctx, stored{b.Hex(), b.Size}, format.MaxChunk+format.EncryptedHeaderSize)
	if err != nil {
		return nil, err
	}
	d, err := format.ParseBlob(body)
	if err != nil {
		return nil, err
	}
	data, err := d.Plain(int(c.Size))
	if err != nil || len(data) != int(c.Size) {
		return nil, cmp.Or(err, blob.ErrCorrupt)
	}
	if len(a.recent) == maxRecent {
		a.recent = a.recent[1:]
	}
	a.recent = append(a.recent[:len(a.recent):len(a.recent)], plainChunk{i, data})
	return data, nil
}

// browse waits for its turn, and returns the snapshot and the path that a request names. "root" and "/" are the top.
func (q *request) browse(d *datastore) (s *snapshot, at string, done func(), err error) {
	text, err := q.params.need("filepath")
	if err != nil {
		return nil, "", nil, err
	}
	if at = text; text != "root" && text != "/" {
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, "", nil, badRequest("parameter verification failed - 'filepath': %v", err)
		}
		at = string(b)
	} else {
		at = ""
	}
	if s, err = q.one(d); err != nil {
		return nil, "", nil, err
	}
	select {
	case q.server.browsers <- struct{}{}:
		return s, strings.TrimPrefix(at, "/"), func() { <-q.server.browsers }, nil
	case <-q.r.Context().Done():
		return nil, "", nil, q.r.Context().Err()
	}
}

type catalogItem struct {
	Path  string  `json:"filepath"` // in base64
	Text  string  `json:"text"`
	Type  string  `json:"type"`
	Leaf  bool    `json:"leaf"`
	Size  *uint64 `json:"size,omitempty"`
	Mtime *int64  `json:"mtime,omitempty"`
}

// catalog lists a directory of a snapshot's archives.
func (q *request) catalog(d *datastore) (any, error) {
	s, at, done, err := q.browse(d)
	if err != nil {
		return nil, err
	}
	defer done()
	a, err := d.openArchive(q.r.Context(), s, format.CatalogName)
	if err != nil {
		return nil, err
	}
	c, err := format.OpenCatalog(a, a.size())
	if err != nil {
		return nil, err
	}
	dir, err := c.Root()
	if err != nil {
		return nil, err
	}
	all, err := c.List(dir)
	for name := range strings.SplitSeq(at, "/") {
		if err != nil || name == "" {
			continue
		}
		found := false
		for _, e := range all {
			if found = string(e.Name) == name; found {
				all, err = c.List(e)
				break
			}
		}
		if !found {
			return nil, refusal.New(http.StatusNotFound, "path '%s' not found in catalog", at)
		}
	}
	if err != nil {
		return nil, err
	}
	items := make([]catalogItem, len(all))
	for i := range all {
		e := &all[i]
		full := append([]byte(at+"/"), e.Name...)
		items[i] = catalogItem{Path: base64.StdEncoding.EncodeToString(full), Text: strings.ToValidUTF8(string(e.Name), "\uFFFD"), Type: string(rune(e.Type)), Leaf: e.Type != 'd'}
		if e.Type == 'f' {
			items[i].Size, items[i].Mtime = &e.Size, &e.Mtime
		}
	}
	return items, nil
}

// pxarDownload sends a file of an archive, or a directory as a zip or as a tar.zst.
func (q *request) pxarDownload(d *datastore) (any, error) {
	asTar, err := q.params.truth("tar")
	if err != nil {
		return nil, err
	}
	s, at, done, err := q.browse(d)
	if err != nil {
		return nil, err
	}
	defer done()
	name, within, _ := strings.Cut(at, "/")
	plain, err := d.openArchive(q.r.Context(), s, name)
	if err != nil {
		return nil, err
	}
	a, root, err := pxar.Open(plain, plain.size())
	if err != nil {
		return nil, archiveError(err)
	}
	e, err := a.Lookup(root, within)
	if err == nil {
		e, err = a.Follow(e)
	}
	switch {
	case err != nil:
		return nil, archiveError(err)
	case e.Is(pxar.ModeFile):
		header(q.w, e.Size)
		return sent, q.flow(func(w io.Writer) error { _, err := io.Copy(w, a.Contents(e)); return err })
	case e.Is(pxar.ModeDir):
		q.w.Header().Set("Content-Type", "application/octet-stream")
		top := path.Base("/" + within)
		if top == "/" {
			top = ""
		}
		return sent, q.flow(func(w io.Writer) error { return pack(w, a, e, top, asTar) })
	default:
		return nil, badRequest("'%s' is neither a file nor a directory", within)
	}
}

func archiveError(err error) error {
	switch {
	case errors.Is(err, pxar.ErrNotFound):
		return refusal.New(http.StatusNotFound, "%v", err)
	case errors.Is(err, pxar.ErrSplit):
		return refusal.New(http.StatusNotImplemented, "%v; restore with the client instead", err)
	case errors.Is(err, pxar.ErrFormat):
		return badRequest("%v", err)
	}
	return err
}

// flow sends what fn writes. If that breaks off, so does the answer.
func (q *request) flow(fn func(io.Writer) error) error {
	out := http.NewResponseController(q.w)
	err := fn(writerFunc(func(p []byte) (int, error) {
		_ = out.SetWriteDeadline(time.Now().Add(sendWithin))
		return q.w.Write(p)
	}))
	if err != nil {
		q.server.log.Debug("a download of an archive broke off", "err", err)
		panic(http.ErrAbortHandler)
	}
	return nil
}

type writerFunc func([]byte) (int, error)

// Write implements io.Writer.
func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// pack writes a directory and what is below it, which is called top, as a tar.zst or a zip.
func pack(w io.Writer, a *pxar.Archive, dir *pxar.Entry, top string, asTar bool) error {
	add, finish := packZip(w, a)
	if asTar {
		z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
		if err != nil {
			return err
		}
		var end func() error
		add, end = packTar(z, a)
		finish = func() error { return errors.Join(end(), z.Close()) }
	}
	if top != "" {
		if err := add(top, dir); err != nil {
			return err
		}
	}
	err := a.Walk(dir, func(at string, e *pxar.Entry) error {
		e, err := a.Follow(e)
		if err != nil {
			return err
		}
		return add(path.Join(top, at), e)
	})
	if err != nil {
		return err
	}
	return finish()
}

func packTar(w io.Writer, a *pxar.Archive) (add func(string, *pxar.Entry) error, finish func() error) {
	t := tar.NewWriter(w)
	return func(name string, e *pxar.Entry) error {
		h := &tar.Header{Name: name, Mode: int64(e.Mode & 0o7777), Uid: e.UID, Gid: e.GID, ModTime: e.Mtime.Truncate(time.Second), Format: tar.FormatPAX}
		switch {
		case e.Is(pxar.ModeDir):
			h.Typeflag, h.Name = tar.TypeDir, name+"/"
		case e.Is(pxar.ModeFile):
			h.Typeflag, h.Size = tar.TypeReg, e.Size
		case e.Is(pxar.ModeSymlink):
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.Link
		case e.Is(pxar.ModeBlock):
			h.Typeflag = tar.TypeBlock
		case e.Is(pxar.ModeChar):
			h.Typeflag = tar.TypeChar
		case e.Is(pxar.ModePipe):
			h.Typeflag = tar.TypeFifo
		default:
			return nil // a socket
		}
		if h.Typeflag == tar.TypeBlock || h.Typeflag == tar.TypeChar {
			h.Devmajor, h.Devminor = int64(e.Major), int64(e.Minor)
		}
		if err := t.WriteHeader(h); err != nil || !e.Is(pxar.ModeFile) {
			return err
		}
		_, err := io.Copy(t, a.Contents(e))
		return err
	}, t.Close
}

// packZip leaves out what a zip has no words for: devices, pipes and sockets.
func packZip(w io.Writer, a *pxar.Archive) (add func(string, *pxar.Entry) error, finish func() error) {
	z := zip.NewWriter(w)
	return func(name string, e *pxar.Entry) error {
		h := &zip.FileHeader{Name: name, Modified: e.Mtime, Method: zip.Deflate}
		mode := fs.FileMode(e.Mode & 0o777)
		var contents io.Reader = strings.NewReader("")
		switch {
		case e.Is(pxar.ModeDir):
			h.Name, h.Method, mode = name+"/", zip.Store, mode|fs.ModeDir
		case e.Is(pxar.ModeFile):
			contents = a.Contents(e)
		case e.Is(pxar.ModeSymlink):
			contents, mode = strings.NewReader(e.Link), mode|fs.ModeSymlink
		default:
			return nil
		}
		h.SetMode(mode)
		f, err := z.CreateHeader(h)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, contents)
		return err
	}, z.Close
}
