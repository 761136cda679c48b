package backup_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/backup"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/storetest"
)

// A rig is a handler on a store in memory.
type rig struct {
	*testing.T
	store *model.Store
	http.Handler
}

func newRig(t *testing.T, access *backup.Access) *rig {
	s := model.New(time.Hour)
	return &rig{t, s, backup.New(backup.Options{Store: s, Keeper: s, Access: access, SpoolDir: t.TempDir(), MaxBlobSize: 1 << 20})}
}

// do makes a request; headers come in pairs. It returns the answer and its body.
func (r *rig) do(method, path string, body []byte, headers ...string) (*http.Response, string) {
	r.Helper()
	req := httptest.NewRequest(method, path, bytes.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	r.ServeHTTP(w, req)
	return w.Result(), w.Body.String()
}

// want makes a request, wants a status, and returns the body.
func (r *rig) want(status int, method, path string, body []byte, headers ...string) string {
	r.Helper()
	a, text := r.do(method, path, body, headers...)
	if a.StatusCode != status {
		r.Errorf("%s %s: got %d %q, want %d", method, path, a.StatusCode, text, status)
	}
	return text
}

// name is what restic calls a file of these bytes.
func name(data []byte) string { return digest.SHA256.Of(data).Hex() }

func TestRestic(t *testing.T) {
	r := newRig(t, nil)
	r.want(200, "POST", "/restic/r/?create=true", nil)
	r.want(404, "HEAD", "/restic/r/config", nil)
	config := []byte("the configuration")
	r.want(200, "POST", "/restic/r/config", config)
	if got := r.want(200, "GET", "/restic/r/config", nil); got != string(config) {
		t.Errorf("config: got %q", got)
	}
	for _, folder := range []string{"data", "keys", "locks", "snapshots", "index"} {
		if got := r.want(200, "GET", "/restic/r/"+folder+"/", nil); got != "[]" {
			t.Errorf("empty %s: got %s", folder, got)
		}
		data := storetest.Bytes(1, 5000)
		path := "/restic/r/" + folder + "/" + name(data)
		r.want(404, "HEAD", path, nil)
		r.want(404, "GET", path, nil)
		r.want(404, "DELETE", path, nil)
		r.want(200, "POST", path, data)
		r.want(200, "POST", path, data) // a client that lost the answer
		a, _ := r.do("HEAD", path, nil)
		if a.StatusCode != 200 || a.ContentLength != 5000 {
			t.Errorf("HEAD: got %d, %d bytes", a.StatusCode, a.ContentLength)
		}
		if got := r.want(200, "GET", path, nil); got != string(data) {
			t.Errorf("GET: got %d bytes, which are not the file's", len(got))
		}
		if got := r.want(206, "GET", path, nil, "Range", "bytes=100-199"); got != string(data[100:200]) {
			t.Errorf("GET of a range: got %d bytes, which are not the file's", len(got))
		}
		r.want(416, "GET", path, nil, "Range", "bytes=5000-")
		if got, want := r.want(200, "GET", "/restic/r/"+folder+"/", nil), fmt.Sprintf("[%q]", name(data)); got != want {
			t.Errorf("list: got %s, want %s", got, want)
		}
		var files []struct {
			Name string
			Size int64
		}
		a, text := r.do("GET", "/restic/r/"+folder+"/", nil, "Accept", "application/vnd.x.restic.rest.v2")
		if err := json.Unmarshal([]byte(text), &files); err != nil || len(files) != 1 || files[0].Size != 5000 || files[0].Name != name(data) {
			t.Errorf("second list: got %s, %v", text, err)
		}
		if got := a.Header.Get("Content-Type"); got != "application/vnd.x.restic.rest.v2" {
			t.Errorf("second list: got content type %s", got)
		}
		r.want(200, "DELETE", path, nil)
		r.want(404, "GET", path, nil)
	}
}

// TestKept: what was stored outlives leases, and what was deleted does not.
func TestKept(t *testing.T) {
	s := model.New(time.Nanosecond)
	r := &rig{t, s, backup.New(backup.Options{Store: s, Keeper: s})}
	data := storetest.Bytes(1, 5000)
	path := "/restic/r/data/" + name(data)
	r.want(200, "POST", path, data)
	s.Evict()
	r.want(200, "GET", path, nil)
	r.want(200, "DELETE", path, nil)
	s.Evict()
	if p := s.Presence(digest.SHA256.Of(data)); p != model.MustNot {
		t.Errorf("what was deleted %v be there", p)
	}
}

// TestApart: a repository does not read what another one stored, nor what a build did.
func TestApart(t *testing.T) {
	r := newRig(t, nil)
	data := storetest.Bytes(1, 5000)
	if err := blob.Put(t.Context(), r.store, digest.SHA256.Of(data), data); err != nil {
		t.Fatal(err)
	}
	r.want(404, "GET", "/restic/a/data/"+name(data), nil)
	r.want(200, "POST", "/restic/a/data/"+name(data), data)
	r.want(404, "GET", "/restic/b/data/"+name(data), nil)
	r.want(404, "GET", "/restic/a/keys/"+name(data), nil)
	r.want(200, "POST", "/restic/b/data/"+name(data), data)
	r.want(200, "DELETE", "/restic/a/data/"+name(data), nil)
	r.want(200, "GET", "/restic/b/data/"+name(data), nil)
}

func TestRefusals(t *testing.T) {
	r := newRig(t, nil)
	data := storetest.Bytes(1, 5000)
	path := "/restic/r/data/" + name(data)
	r.want(400, "POST", path, data[1:])
	r.want(400, "POST", path, append([]byte{^data[0]}, data[1:]...))
	r.want(400, "POST", path, nil)
	r.want(404, "GET", path, nil)
	r.want(413, "POST", path, make([]byte, 1<<20+1))
	r.want(404, "POST", "/restic/r/data/"+strings.ToUpper(name(data)), data)
	r.want(404, "POST", "/restic/r/data/x", data)
	r.want(404, "GET", "/restic/r/date/", nil)
	r.want(404, "GET", "/restic/r/data/"+name(data)+"/x", nil)
	r.want(404, "GET", "/restic/../data/", nil)
	r.want(404, "GET", "/restic/.r/data/", nil)
	r.want(404, "GET", "/restic/", nil)
	r.want(404, "GET", "/restic", nil)
	r.want(400, "POST", "/restic/r/", nil)
	r.want(405, "DELETE", "/restic/r/", nil)
	r.want(405, "PUT", path, data)
	r.want(405, "POST", "/restic/r/data/", data)
	r.want(200, "POST", "/restic/r/config", []byte("first"))
	r.want(200, "POST", "/restic/r/config", []byte("first"))
	r.want(403, "POST", "/restic/r/config", []byte("second"))
	r.want(413, "POST", "/restic/q/config", make([]byte, 1<<20+1))
	req := httptest.NewRequest("POST", path, struct{ io.Reader }{bytes.NewReader(data)})
	w := httptest.NewRecorder()
	if r.ServeHTTP(w, req); w.Code != 411 {
		t.Errorf("POST without a length: got %d, want 411", w.Code)
	}
	req = httptest.NewRequest("POST", path, io.MultiReader(bytes.NewReader(data[:100]), brokenReader{}))
	req.ContentLength = 5000
	w = httptest.NewRecorder()
	if r.ServeHTTP(w, req); w.Code != 400 {
		t.Errorf("POST that breaks off: got %d, want 400", w.Code)
	}
	r.want(404, "GET", path, nil)
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

var restricted = backup.Restrict(
	map[string]backup.Rule{
		"laptop": {Token: "secret-1", AppendOnly: true, MaintenanceToken: "secret-2", Quota: 10000},
		"shared": {},
		"sealed": {AppendOnly: true},
	},
	map[string]backup.Rule{"images": {Token: "secret-3", AppendOnly: true, Quota: 10000}},
)

func basic(password string) []string {
	req := httptest.NewRequest("GET", "/", nil)
	req.SetBasicAuth("whoever", password)
	return []string{"Authorization", req.Header.Get("Authorization")}
}

func TestTokens(t *testing.T) {
	r := newRig(t, restricted)
	for _, auth := range [][]string{nil, basic(""), basic("secret"), basic("secret-3"), {"Authorization", "Bearer x"}, {"Authorization", "secret-1"}} {
		a, _ := r.do("GET", "/restic/laptop/keys/", nil, auth...)
		if a.StatusCode != 401 || a.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("with %q: got %d, want 401", auth, a.StatusCode)
		}
	}
	r.want(401, "GET", "/restic/nobody/keys/", nil, basic("secret-1")...)
	r.want(401, "GET", "/casync/laptop/x.caibx", nil, basic("secret-1")...)
	r.want(200, "GET", "/restic/laptop/keys/", nil, basic("secret-1")...)
	r.want(200, "GET", "/restic/laptop/keys/", nil, "Authorization", "Bearer secret-2")
	r.want(200, "GET", "/restic/shared/keys/", nil)
	r.want(404, "GET", "/casync/images/x.caibx", nil, basic("secret-3")...)
}

func TestAppendOnly(t *testing.T) {
	r := newRig(t, restricted)
	data := storetest.Bytes(1, 500)
	for _, folder := range []string{"data", "keys", "snapshots", "index", "locks"} {
		path := "/restic/laptop/" + folder + "/" + name(data)
		r.want(200, "POST", path, data, basic("secret-1")...)
		if folder == "locks" {
			r.want(200, "DELETE", path, nil, basic("secret-1")...)
			continue
		}
		r.want(403, "DELETE", path, nil, basic("secret-1")...)
		r.want(200, "GET", path, nil, basic("secret-1")...)
		r.want(200, "DELETE", path, nil, basic("secret-2")...)
	}
	r.want(200, "POST", "/restic/sealed/config", data)
	r.want(403, "DELETE", "/restic/sealed/config", nil)
}

func TestQuota(t *testing.T) {
	r := newRig(t, restricted)
	put := func(want int, n int) string {
		t.Helper()
		data := storetest.Bytes(uint64(n), n)
		r.want(want, "POST", "/restic/laptop/data/"+name(data), data, basic("secret-1")...)
		return "/restic/laptop/data/" + name(data)
	}
	first := put(200, 6000)
	put(200, 6000) // the same: nothing more is taken
	put(507, 4001)
	put(200, 4000)
	put(507, 1)
	r.want(200, "DELETE", first, nil, basic("secret-2")...)
	put(507, 6001)
	bad := storetest.Bytes(9, 6000)
	r.want(400, "POST", "/restic/laptop/data/"+name(bad[1:]), bad, basic("secret-1")...) // gives its share back
	put(200, 6000)
	// Another process counts the same.
	r.Handler = backup.New(backup.Options{Store: r.store, Keeper: r.store, Access: restricted})
	put(507, 1)
	// Uploads at once don't exceed it together.
	r.want(200, "DELETE", first, nil, basic("secret-2")...)
	var group sync.WaitGroup
	var mu sync.Mutex
	stored := 0
	for i := range 20 {
		group.Go(func() {
			data := storetest.Bytes(uint64(100+i), 1000)
			if a, _ := r.do("POST", "/restic/laptop/data/"+name(data), data, basic("secret-1")...); a.StatusCode == 200 {
				mu.Lock()
				stored++
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if stored != 6 {
		t.Errorf("%d files of 1000 bytes were stored where 6000 were free", stored)
	}
}

// A failing store fails with one error.
type failing struct {
	*model.Store
	err error
}

func (f failing) Keep(_ context.Context, _ string, _ []byte, _ digest.Set) error { return f.err }

func (f failing) KeepIf(_ context.Context, _ string, _ *blob.Root, _ []byte, _ digest.Set) error {
	return f.err
}

// TestStoreFails: what could not be kept was not stored.
func TestStoreFails(t *testing.T) {
	data := storetest.Bytes(1, 500)
	for err, want := range map[error]int{
		blob.ErrFull:           507,
		blob.ErrTooLarge:       413,
		blob.ErrAborted:        503,
		blob.ErrClosed:         503,
		errors.New("the disk"): 500,
		&blob.MissingError{Blobs: []digest.Digest{digest.SHA256.Of(data)}}: 503,
	} {
		s := failing{model.New(time.Hour), err}
		r := &rig{t, s.Store, backup.New(backup.Options{Store: s, Keeper: s})}
		r.want(want, "POST", "/restic/r/data/"+name(data), data)
		r.want(404, "GET", "/restic/r/data/"+name(data), nil)
	}
}

func FuzzPaths(f *testing.F) {
	for _, p := range []string{"/restic/r/data/", "/casync/s/default.castr/0000/" + hex.EncodeToString(make([]byte, 32)) + ".cacnk", "/restic/../..", "/casync/s/a/../b"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, path string) {
		r := newRig(t, nil)
		req := httptest.NewRequest("GET", "/", nil)
		req.URL.Path = path
		w := httptest.NewRecorder()
		if r.ServeHTTP(w, req); w.Code >= 500 {
			t.Errorf("GET %q: got %d", path, w.Code)
		}
	})
}

// TestQuotaServers: what other servers add and delete counts, if not at once.
func TestQuotaServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := model.New(time.Hour)
		server := func() *rig {
			return &rig{t, s, backup.New(backup.Options{Store: s, Keeper: s, Shared: true, Access: restricted, SpoolDir: t.TempDir(), MaxBlobSize: 1 << 20})}
		}
		a, b := server(), server()
		put := func(r *rig, want, n int) string {
			t.Helper()
			data := storetest.Bytes(uint64(n), n)
			r.want(want, "POST", "/restic/laptop/data/"+name(data), data, basic("secret-1")...)
			return "/restic/laptop/data/" + name(data)
		}
		put(b, 200, 1)
		big := put(a, 200, 6000)
		time.Sleep(time.Minute)
		put(b, 507, 4000) // which has seen what came through the other one
		put(b, 200, 3999)
		put(b, 507, 2)
		a.want(200, "DELETE", big, nil, basic("secret-2")...)
		time.Sleep(5 * time.Second)
		put(b, 200, 6000) // before it refuses it looks again
	})
}
