package httpcache

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

// A dialect is how one build tool talks to its cache. All of them keep entries (entry.go); what differs is what a
// path means, and the answers.
type dialect struct {
	answers
	// usage says which paths there are below /DIALECT/NAMESPACE/.
	usage string
	// serve answers a request, of which rest is the path below the namespace.
	serve func(x *exchange, rest []string) error
}

// answers are the status codes that a dialect's client takes for what they mean, or at least without harm. A
// miss is 404 for all of them.
type answers struct {
	stored   int           // a PUT whose entry was stored
	once     bool          // an entry that is there stays,
	exists   int           // and this is the answer to its PUT
	failing  int           // GET and HEAD when the store fails or is slow
	unstored int           // PUT when the store fails or is slow
	full     int           // PUT when there is no room
	large    int           // PUT of more bytes than are taken
	max      int64         // how many that is, where it is less than the store takes; zero if it is not
	patience time.Duration // how long a client waits for GET and HEAD
}

const (
	kib = 1 << 10
	mib = 1 << 20
)

// What each client makes of a status is written down in docs/clients.md. In short: Gradle uses its cache no more in
// this build after any other answer than these. Nx fails on all that is not listed here. Turborepo understands a
// 403 that says in JSON what is the matter. ccache waits 100 ms for a server. Metro lets a failed write end the process.
var (
	forGradle  = answers{stored: 200, failing: 404, unstored: 413, full: 413, large: 413, patience: 2 * time.Second}
	forNx      = answers{stored: 200, once: true, exists: 409, failing: 404, unstored: 409, full: 409, large: 409, patience: 2 * time.Second}
	forTurbo   = answers{stored: 202, failing: 404, unstored: 403, full: 403, large: 413, patience: 2 * time.Second}
	forCcache  = answers{stored: 200, failing: 404, unstored: 503, full: 507, large: 413, patience: 100 * time.Millisecond}
	forSccache = answers{stored: 201, failing: 404, unstored: 507, full: 507, large: 413, patience: 2 * time.Second}
	forMaven   = answers{stored: 201, failing: 404, unstored: 503, full: 507, large: 413, patience: 2 * time.Second}
	forMetro   = answers{stored: 200, failing: 404, unstored: 200, full: 200, large: 200, patience: 2 * time.Second}
	forNix     = answers{stored: 201, failing: 404, unstored: 503, full: 507, large: 413, patience: 2 * time.Second}

	forKuraCAS    = answers{stored: 204, once: true, exists: 204, failing: 429, unstored: 429, full: 429, large: 413, max: 25 * mib, patience: 2 * time.Second}
	forKuraValue  = answers{stored: 204, failing: 429, unstored: 429, full: 429, large: 413, max: mib, patience: 2 * time.Second}
	forKuraGradle = answers{stored: 201, once: true, exists: 200, failing: 404, unstored: 413, full: 413, large: 413, max: 100 * mib, patience: 2 * time.Second}
	forKuraModule = answers{stored: 204, once: true, exists: 204, failing: 429, unstored: 429, full: 429, large: 413, max: 10 * mib, patience: 5 * time.Second}
)

// dialects are all of them, by the first segment of their paths.
var dialects map[route]*dialect

func init() {
	dialects = map[route]*dialect{
		routeGradle:  {forGradle, "/KEY", serveGradle},
		routeNx:      {forNx, "/v1/cache/HASH", serveNx},
		routeTurbo:   {forTurbo, "/v8/artifacts/HASH", serveTurbo},
		routeCcache:  {forCcache, "/KEY, /KE/Y or /ac/KEY", serveCcache},
		routeSccache: {forSccache, "/PATH", serveSccache},
		routeMaven:   {forMaven, "/PATH", serveMaven},
		routeMetro:   {forMetro, "/KEY", serveMetro},
		routeNix:     {forNix, "/nix-cache-info, /HASH.narinfo or /PATH", serveNix},
		routeKura:    {forKuraCAS, "/api/cache/(cas|keyvalue|gradle|module|clean)", serveKura},
	}
}

// An exchange is a request in a dialect, and its answer.
type exchange struct {
	*handler
	answers
	w      *response
	r      *http.Request
	space  space
	noRoom bool // why it failed
}

// converse answers a request in a dialect.
func (h *handler) converse(w *response, r *http.Request, n name) error {
	if err := crossOrigin.Check(r); err != nil {
		return refusal.New(http.StatusForbidden, "%v", err)
	}
	x := &exchange{handler: h, answers: n.dialect.answers, w: w, r: r, space: n.space}
	var err error
	if r.Method == http.MethodDelete && n.rest == "" && n.space.namespace != "" {
		err = x.clean()
	} else {
		err = n.dialect.serve(x, split(n.rest))
	}
	return x.soften(err)
}

// unknown refuses a path that the dialect has no meaning for.
func (x *exchange) unknown() error {
	return refusal.New(http.StatusNotFound, "no such path: below /%s/%s there is %s", x.space.route, x.space.namespace, dialects[x.space.route].usage)
}

// not refuses a method.
func (x *exchange) not(served string) error {
	x.w.Header().Set("Allow", served)
	return refusal.New(http.StatusMethodNotAllowed, "%s is not served here, only %s", x.r.Method, served)
}

// soften gives the failure err the status that the client bears.
func (x *exchange) soften(err error) error {
	if err == nil || x.w.code != 0 {
		return err
	}
	read, put := false, false
	switch x.r.Method {
	case http.MethodGet, http.MethodHead, "PROPFIND":
		read = true
	case http.MethodPut, http.MethodPost:
		put = true
	}
	code := statusOf(err)
	if !read && !put { // what could not be deleted must not look deleted
		return err
	}
	if code == http.StatusInternalServerError {
		x.logFailure(x.r, err)
	}
	switch code {
	case http.StatusRequestEntityTooLarge:
		code = x.large
	case http.StatusInsufficientStorage:
		x.noRoom, code = true, x.full
	case http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusPreconditionFailed:
		code = x.unstored
	default:
		return err
	}
	if read {
		code = x.failing
	}
	return refusal.New(code, "%v", err)
}

// entry answers GET, HEAD, PUT and DELETE of the entry at path.
func (x *exchange) entry(path string) error {
	switch x.r.Method {
	case http.MethodGet, http.MethodHead:
		return x.get(path, "application/octet-stream")
	case http.MethodPut:
		return x.put(path)
	case http.MethodDelete:
		return x.delete(path)
	}
	return x.not("GET, HEAD, PUT, DELETE")
}

// An opened entry can be read until it is closed.
type opened struct {
	*entry
	io.ReadSeeker
	blob io.Closer
}

func (o *opened) Close() error { return o.blob.Close() }

// open opens the entry at path. A small one is read, and so verified, before anything is said of it.
func (h *handler) open(ctx context.Context, s space, path string) (*opened, error) {
	e, err := h.find(ctx, s, path)
	if err != nil {
		return nil, err
	}
	b, err := h.Store.Open(ctx, e.digest)
	if err != nil {
		return nil, err
	}
	if e.digest.Size > int64(len(buffer{})) {
		return &opened{e, io.NewSectionReader(b, 0, b.Size()), b}, nil
	}
	data := make([]byte, e.digest.Size)
	if n, err := b.ReadAt(data, 0); n < len(data) {
		b.Close()
		return nil, fmt.Errorf("%w: %d of %d bytes: %w", blob.ErrCorrupt, n, len(data), err)
	}
	return &opened{e, bytes.NewReader(data), b}, nil
}

// lookUp opens the entry at path as fast as the client wants it.
func (x *exchange) lookUp(path string) (*opened, error) {
	o, err := await(x.r.Context(), x.handler, x.patience, func(ctx context.Context) (*opened, error) {
		return x.open(ctx, x.space, path)
	}, func(o *opened) { o.Close() })
	if errors.Is(err, blob.ErrNotFound) {
		return nil, refusal.New(http.StatusNotFound, "%s is not here", path)
	}
	return o, err
}

// get answers GET and HEAD of the entry at path, whose yes is a lease.
func (x *exchange) get(path, contentType string) error {
	o, err := x.lookUp(path)
	if err != nil {
		return err
	}
	defer o.Close()
	head := x.w.Header()
	head.Set("Content-Type", contentType)
	for _, p := range o.kept {
		head.Set(p.GetName(), p.GetValue())
	}
	return serve(x.w, x.r, o.digest, &content{ReadSeeker: o})
}

// put answers PUT of the entry at path.
func (x *exchange) put(path string) error {
	stored, err := x.take(path, nil)
	if err != nil {
		return err
	}
	x.done(stored)
	return nil
}

// done answers that an entry was stored, or that it was there.
func (x *exchange) done(stored bool) {
	code := x.stored
	if !stored {
		code = x.exists
	}
	if code == http.StatusNoContent {
		x.w.WriteHeader(code)
		return
	}
	x.w.Header().Set("Content-Length", "0")
	x.w.WriteHeader(code)
}

// take receives the body as the entry at path. stored is false if the dialect lets what is there stay.
func (x *exchange) take(path string, kept []*repb.NodeProperty) (stored bool, err error) {
	body, err := x.receive(path)
	if err != nil || body == nil {
		return false, err
	}
	return x.commit(path, kept, body)
}

// receive returns the body whole, or nil if the entry at path is there and stays.
func (x *exchange) receive(path string) (*received, error) {
	limit := x.MaxBlobSize
	if x.max > 0 {
		limit = min(limit, x.max)
	}
	u, err := openUpload(x.w, x.r, limit, "")
	if err != nil {
		return nil, err
	}
	defer u.Close()
	if x.once {
		o, err := x.lookUp(path)
		if err == nil {
			o.Close()
			if x.r.Header.Get("Expect") != "" {
				return nil, nil // which spares the client to send it
			}
			_, err = copyPooled(io.Discard, u)
			return nil, err
		}
		if statusOf(err) != http.StatusNotFound {
			return nil, err
		}
	}
	return x.handler.receive(u)
}

const (
	// storeTime is how long a PUT waits for the store once its body is there. ccache gives up after ten seconds,
	// Metro after five.
	storeTime = 4 * time.Second
	// storeSpeed is what is added for large bodies, in bytes a second.
	storeSpeed = 20 * mib
)

// commit makes body the entry at path, and closes it.
func (x *exchange) commit(path string, kept []*repb.NodeProperty, body *received) (stored bool, err error) {
	e := &entry{body.digest, kept}
	wait := storeTime + time.Duration(e.digest.Size/storeSpeed)*time.Second
	var closing sync.Once // whether the store is ever called or not
	stored, err = await(x.r.Context(), x.handler, wait, func(ctx context.Context) (stored bool, err error) {
		mine := false
		closing.Do(func() { mine = true })
		if !mine {
			return false, errSlow
		}
		defer body.Close()
		if err := x.store(ctx, body); err != nil {
			return false, err
		}
		return x.keep(ctx, x.space, path, e, x.once)
	}, func(bool) {})
	closing.Do(func() { body.Close() })
	return stored, err
}

// delete answers DELETE of the entry at path, which need not be there.
func (x *exchange) delete(path string) error {
	return x.finish(func(ctx context.Context) error { return x.remove(ctx, x.space, path) })
}

// clean answers DELETE of the namespace.
func (x *exchange) clean() error {
	return x.finish(func(ctx context.Context) error { return x.handler.clean(ctx, x.space) })
}

// finish answers 204 when do is done.
func (x *exchange) finish(do func(context.Context) error) error {
	_, err := await(x.r.Context(), x.handler, storeTime, func(ctx context.Context) (struct{}, error) { return struct{}{}, do(ctx) }, func(struct{}) {})
	if err == nil {
		x.w.WriteHeader(http.StatusNoContent)
	}
	return err
}

// json answers 200 with v.
func (x *exchange) json(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	x.w.Header().Set("Content-Type", "application/json")
	whole(x.w, data)
	return nil
}

// message returns the body of a small request.
func (x *exchange) message(max int64) ([]byte, error) {
	u, err := openUpload(x.w, x.r, max, "")
	if err != nil {
		return nil, err
	}
	defer u.Close()
	return io.ReadAll(u)
}

// isHex reports whether s consists of n lower-case hexadecimal digits.
func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}
