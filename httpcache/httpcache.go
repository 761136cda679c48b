// Package httpcache serves the HTTP build caches from one content-addressed store, one dialect a
// file. bazel.go has Bazel's, which moon speaks too: blobs and results. The others (dialect.go) keep
// opaque entries under paths of their own (entry.go). Beside them stand /healthz, /metrics, /status and /fsck,
// and what another handler has for backups.
//
// # Invariants
//
//   - No answer says that a blob, a result or an entry is here unless the store just said so in a call that
//     leases the bytes. Nothing of what is here is remembered between requests.
//   - 200 to a PUT means that the store has verified, published and leased the bytes. Whatever else
//     comes of a PUT, a body that was cut off included, nothing is visible. The exception is Metro, which
//     bears no other answer.
//   - WholeEntry: an entry is an action result with one output file: complete or absent, the last PUT or the first,
//     as the dialect has it.
//   - A failure of the store becomes the status that the dialect's client bears, within the time that it waits.
//   - A GET that can't be finished never looks finished: the connection is cut.
//   - Memory for one request is bounded by a buffer, but for action results, which are bounded by
//     maxResult, and a dialect's messages, which are bounded by 4 MiB. Bodies of unknown size or digest take
//     disk, of which all of them share MaxBlobSize.
//
// # Concurrency
//
// The handler serves any number of requests at once. They share the room for spooled bodies, the number of calls of the
// store that dialects have under way, and turns: who looks whether an entry is there before it is put, or begins an epoch
// of a namespace, does so alone.
//
// # Crashes
//
// Spooled bodies wait in files without a name, which end with the process. Entries and epochs are as durable as results.
package httpcache

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

// stall is how long one read from a client, or one write to it, may take. A client that is silent
// for longer holds an unfinished upload's room, or an open blob that can't be removed.
const stall = 5 * time.Minute

// Options say what New serves.
type Options struct {
	// Store holds the blobs, for all instances.
	Store blob.Store
	// Actions holds the action results.
	Actions *action.Cache
	// SpoolDir is where bodies of unknown size wait for their end; it is made if it is missing.
	// Empty means the system's temporary folder. All of them together take at most MaxBlobSize there.
	SpoolDir string
	// MaxBlobSize is the largest blob in bytes that may be put. Larger ones are refused before they
	// are read. Zero leaves the limit to the store.
	MaxBlobSize int64
	// GRPCAddr returns HOST:PORT of the gRPC server, which messages name. It may be nil.
	GRPCAddr func() string
	// Status returns what /status prints beside version and uptime; it must be fit for
	// encoding/json. It may be nil.
	Status func() any
	// Fsck verifies the store, and calls say from one goroutine for what it finds; each becomes a line of
	// JSON. It ends with ctx. It may be nil.
	Fsck func(ctx context.Context, say func(line any)) error
	// Collect collects the bucket behind the store, as the query says, in the same way. It may be nil.
	Collect func(ctx context.Context, how url.Values, say func(line any)) error
	// Backup answers what is below /restic/ and /casync/. It may be nil.
	Backup http.Handler
	// Version is the program's version.
	Version string
	// Log gets a line per request at debug, and failures of the store. It may be nil.
	Log *slog.Logger
	// Metrics is where the metrics are registered and what /metrics prints. It may be nil.
	Metrics interface {
		prometheus.Registerer
		prometheus.Gatherer
	}
}

type handler struct {
	Options
	metrics   *metrics
	scrape    http.Handler // answers /metrics
	started   time.Time
	stall     time.Duration
	checking  atomic.Bool // a check is running
	turns     turns
	calls     chan struct{} // one for each call of the store for a dialect that is under way
	hurry     time.Duration // what the waits for such calls are divided by; tests are in a hurry
	spoolLeft atomic.Int64  // bytes that bodies of unknown size may still take; negative while one is refused
}

// New returns the handler of everything that the package serves.
func New(o Options) http.Handler { return newHandler(o) }

func newHandler(o Options) *handler {
	if o.SpoolDir == "" {
		o.SpoolDir = os.TempDir()
	}
	if o.MaxBlobSize <= 0 {
		o.MaxBlobSize = math.MaxInt64
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	h := &handler{
		Options: o,
		metrics: newMetrics(o.Metrics),
		scrape:  promhttp.HandlerFor(o.Metrics, promhttp.HandlerOpts{}),
		started: time.Now(),
		stall:   stall,
		calls:   make(chan struct{}, maxCalls),
		hurry:   1,
	}
	h.spoolLeft.Store(o.MaxBlobSize)
	return h
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	start := time.Now()
	w := &response{ResponseWriter: rw, control: http.NewResponseController(rw), stall: h.stall}
	// r itself stays as it is: net/http looks into r.Body to see whether it may be left unread.
	w.body = &body{Reader: r.Body, response: w}
	n, err := parsePath(r.URL.Path)
	defer func() {
		if w.code == 0 {
			w.code = http.StatusOK
		}
		h.metrics.count(n.route, r.Method, w.code, w.body.received, w.sent)
		if h.Log.Enabled(r.Context(), slog.LevelDebug) {
			h.Log.Debug("http request", "method", r.Method, "path", r.URL.Path, "code", w.code,
				"received", w.body.received, "sent", w.sent, "took", time.Since(start), "from", r.RemoteAddr)
		}
	}()
	switch {
	case err != nil:
	case n.dialect != nil:
		err = h.converse(w, r, n)
	case isBackup(n.route):
		err = h.backup(w, r)
	default:
		err = h.dispatch(w, r, n)
	}
	if err != nil {
		h.fail(w, r, err)
	}
}

// methods says what each route takes, as the Allow header has it.
var methods = map[route]string{
	routeCAS:     "GET, HEAD, PUT",
	routeAC:      "GET, HEAD, PUT",
	routeHealthz: "GET, HEAD",
	routeMetrics: "GET, HEAD",
	routeStatus:  "GET, HEAD",
	routeFsck:    "POST",
	routeGC:      "POST",
}

// serves reports whether a route takes a method.
func (n name) serves(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead:
		return n.route != routeFsck && n.route != routeGC
	case http.MethodPut:
		return n.isBazel()
	}
	return method == http.MethodPost && (n.route == routeFsck || n.route == routeGC)
}

func (h *handler) dispatch(w *response, r *http.Request, n name) error {
	put := r.Method == http.MethodPut
	if !n.serves(r.Method) {
		w.Header().Set("Allow", methods[n.route])
		return refusal.New(http.StatusMethodNotAllowed, "%s is not served here, only %s", r.Method, methods[n.route])
	}
	switch n.route {
	case routeCAS:
		if put {
			return h.putBlob(w, r, n)
		}
		return h.getBlob(w, r, n)
	case routeAC:
		if put {
			return h.putResult(w, r, n)
		}
		return h.getResult(w, r, n)
	case routeMetrics:
		h.scrape.ServeHTTP(w, r)
	case routeStatus:
		return h.status(w)
	case routeFsck:
		return h.fsck(w, r)
	case routeGC:
		return h.collect(w, r)
	default:
		text(w, http.StatusOK, "ok")
	}
	return nil
}

// grpc returns how to name the gRPC server in a message.
func (h *handler) grpc() string {
	if h.GRPCAddr == nil || h.GRPCAddr() == "" {
		return "gRPC"
	}
	return "gRPC (grpc://" + strings.TrimPrefix(h.GRPCAddr(), "grpc://") + ")"
}

// fail answers with what went wrong.
func (h *handler) fail(w *response, r *http.Request, err error) {
	if w.code != 0 {
		// The answer has begun as a success. Only a cut connection still tells the client.
		h.logFailure(r, err)
		panic(http.ErrAbortHandler)
	}
	code, coming := statusOf(err), w.body.coming(r)
	switch code {
	case http.StatusInternalServerError:
		h.logFailure(r, err)
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	case http.StatusTooManyRequests:
		// Who was sent away together should not come back together.
		w.Header().Set("Retry-After", strconv.Itoa(1+rand.IntN(10)))
	case http.StatusRequestEntityTooLarge, http.StatusRequestTimeout:
		// Otherwise net/http would read on, in the hope of keeping the connection.
		w.Header().Set("Connection", "close")
	}
	if coming {
		w.Header().Set("Connection", "close")
		text(w, code, err.Error())
		w.body.linger()
		return
	}
	// The rest of a small body is read by net/http, which must not wait for ever either.
	w.body.arm()
	text(w, code, err.Error())
}

// logFailure reports what a client can't be blamed for.
func (h *handler) logFailure(r *http.Request, err error) {
	if r.Context().Err() == nil && !errors.Is(err, context.Canceled) {
		h.Log.Error("http request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
}
