package backup

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

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
	// The same once more is stored again: it may have turned out to be damaged.
	store := func() error { return blob.Put(q.r.Context(), q.Store, d, data) }
	return q.replace(root, d, store, func(was blob.Root, there bool) error {
		if there && !holds(was, d) {
			return refusal.New(http.StatusForbidden, "the repository has a configuration already")
		}
		return nil
	})
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
	store := func() error { return q.stream(d, bodyReader{q.r.Body}) }
	return q.replace(root, d, store, func(blob.Root, bool) error { return nil })
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
