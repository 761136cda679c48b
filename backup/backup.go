// Package backup serves backup tools over HTTP from one content-addressed store: restic's REST back end
// (restic.go) under /restic/REPOSITORY/, and the chunk stores of casync and desync (casync.go) under
// /casync/STORE/.
//
// # Invariants
//
//   - Stored means kept: 200 to an upload says that its bytes were verified, are on the disk and are held by
//     a root, until somebody with the right to do so deletes that.
//   - A repository reads what it stored and nothing else, whoever else's blobs have the same store.
//   - Every byte of a file but restic's configuration is verified against its name before it is kept.
//   - An upload may be sent again: the second time nothing is changed, and the answer is the same.
//   - A token that may only add never removes or replaces anything but restic's locks.
//
// # Concurrency
//
// The handler serves any number of requests at once. Chunks of one prefix are added one after the other. A
// quota is taken before a body is read, so that uploads at once can't exceed it together.
//
// # Crashes
//
// Nothing is remembered but in roots. Spooled files have no name, and end with the process. What a repository takes is
// counted anew after a restart. An upload that was not answered may be there.
package backup

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/refusal"
	"github.com/sarsen-build/sarsen/internal/turns"
)

// Options say what New serves.
type Options struct {
	// Store holds the bytes, and Keeper keeps them.
	Store  blob.Store
	Keeper blob.Keeper
	// Shared says that other servers keep roots there too.
	Shared bool
	// Access says who may do what. nil is Open.
	Access *Access
	// SpoolDir is where files wait whose digest is not known before their end. Empty means the system's temporary folder.
	SpoolDir string
	// MaxBlobSize is the largest file in bytes that may be stored. Zero leaves the limit to the store.
	MaxBlobSize int64
	// Log gets failures of the store. It may be nil.
	Log *slog.Logger
}

type handler struct {
	Options
	quotas     quotas
	turns      turns.By[string] // to change a root, by its name
	spoolTaken atomic.Int64     // bytes
	whole      chan struct{}    // one for each chunk that is in memory
	large      chan struct{}    // one for each large buffer in use
}

// maxWhole is how many bodies may be in memory at once, each of at most maxChunk bytes before and after decoding.
const maxWhole = 16

// New returns the handler of /restic/ and /casync/.
func New(o Options) http.Handler {
	if o.Access == nil {
		o.Access = Open()
	}
	if o.SpoolDir == "" {
		o.SpoolDir = os.TempDir()
	}
	if o.MaxBlobSize <= 0 {
		o.MaxBlobSize = math.MaxInt64
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &handler{
		Options: o, quotas: quotas{keeper: o.Keeper, shared: o.Shared}, whole: make(chan struct{}, maxWhole), large: make(chan struct{}, maxWhole),
	}
}

// A request is one that was let in.
type request struct {
	*handler
	w      http.ResponseWriter
	r      *http.Request
	kind   string // "restic" or "casync"
	name   string // of the repository or store
	rights rights
}

// prefix begins the names of all roots of a repository.
func (q *request) prefix() string { return q.kind + "/" + q.name + "/" }

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.SplitN(strings.TrimPrefix(r.URL.Path, "/"), "/", 3)
	q := &request{handler: h, w: w, r: r, kind: parts[0]}
	rest := ""
	if len(parts) > 1 {
		q.name = parts[1]
	}
	if len(parts) > 2 {
		rest = parts[2]
	}
	if err := q.serve(rest); err != nil {
		q.fail(err)
	}
}

func (q *request) serve(rest string) error {
	if !validName(q.name) {
		return refusal.New(http.StatusNotFound, "no such path; /restic/REPOSITORY/ and /casync/STORE/ are served, whose names are letters, digits, dots, dashes and underscores")
	}
	var err error
	if q.rights, err = q.Access.of(q.kind, q.name, q.r); err != nil {
		return err
	}
	if q.kind == "casync" {
		return q.casync(rest)
	}
	return q.restic(rest)
}

// validName reports whether a repository may be called so.
func validName(name string) bool {
	if name == "" || len(name) > 128 || name[0] == '.' {
		return false
	}
	return strings.IndexFunc(name, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._-", c))
	}) < 0
}

// not refuses a method.
func (q *request) not(served string) error {
	q.w.Header().Set("Allow", served)
	return refusal.New(http.StatusMethodNotAllowed, "%s is not served here, only %s", q.r.Method, served)
}

// What is taken of a body that was refused: clients send all of it before they look for an answer, and would lose that to the
// reset of a connection closed on them.
const (
	lingerBytes = 64 << 20
	lingerTime  = 5 * time.Second
)

// fail answers with what went wrong.
func (q *request) fail(err error) {
	code := statusOf(err)
	if code == http.StatusInternalServerError && q.r.Context().Err() == nil && !errors.Is(err, context.Canceled) {
		q.Log.Error("http request failed", "method", q.r.Method, "path", q.r.URL.Path, "err", err)
	}
	switch code {
	case http.StatusUnauthorized:
		q.w.Header().Set("WWW-Authenticate", `Basic realm="sarsen"`)
	case http.StatusInsufficientStorage: // of which clients print no more than the number
		q.Log.Warn("a backup is refused", "path", q.r.URL.Path, "err", err)
	case http.StatusServiceUnavailable:
		q.w.Header().Set("Retry-After", "1")
	}
	http.Error(q.w, err.Error(), code)
	if q.r.Body != nil && q.r.ContentLength != 0 && q.r.Header.Get("Expect") == "" {
		_ = http.NewResponseController(q.w).Flush() // where it can't, the answer comes later
		_, _ = io.CopyN(io.Discard, timely{q.r.Body, time.Now().Add(lingerTime)}, lingerBytes)
	}
}
