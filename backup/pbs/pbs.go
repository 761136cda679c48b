// Package pbs serves the protocol of Proxmox Backup Server from one content-addressed store, so that its
// clients back up to it and restore from it.
//
// A chunk is stored as it was received, as a blob of those bytes; so are indexes and manifests. A snapshot is one
// root (blob.Keeper) over all of that, and over the list that says which blob holds which chunk: a client's
// digest of a chunk is not the digest of what is stored. That list belongs to the snapshot. There is no index of
// chunks across snapshots that could be stale, or in which one client could put wrong bytes under another's digest.
//
// # Invariants
//
//   - Whole: a snapshot is listed when every byte that it names is held by its root. Before finish nothing is.
//   - A yes is held: a chunk that was taken, and every chunk of the previous snapshot, stays until the session
//     ends, whatever is pruned, forgotten or evicted meanwhile, and however long the session lasts.
//   - A chunk that is not encrypted hashes to its digest. Of an encrypted one the server can verify the CRC only;
//     it is served under its digest to those who read the same snapshot, or the next ones that refer to it.
//   - One writer a group at a time on each server.
//
// # Concurrency
//
// The server serves any number of connections, and a session any number of calls at once. A session's tables are
// under its mutex, and no I/O is done there. Changes of one group's roots are made one after the other (datastore.turns).
//
// # Crashes
//
// Roots are all that is remembered. A session that a crash ended leaves roots under a prefix of this server's own, which
// New releases. Servers that share a Keeper do not touch one another's, but for those that are older than any session
// can be: what is left of a server that never came back. Keys of this server, and its name among others (identity.go),
// lie in files that are written whole.
package pbs

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/turns"
)

// Options say what New serves.
type Options struct {
	// Datastores are what clients can name. Several may have one store.
	Datastores []Datastore
	// Access says who may do what.
	Access Access
	// Identity has the keys, and tells servers with the same Keeper apart; see LoadIdentity.
	Identity *Identity
	// Zone is the time zone in which pruning counts hours, days and weeks. It is the machine's if nil.
	Zone *time.Location
	// Log gets what users should know. It may be nil.
	Log *slog.Logger
}

// A Datastore is one name under which backups lie.
type Datastore struct {
	Name   string
	Store  blob.Store
	Keeper blob.Keeper
	// Space returns how many bytes there can be, and how many there are. It may be nil.
	Space func() (total, used int64)
	// Patience is how long to wait for what a root names and the Store does not have: where other servers write too, it
	// may be said to be missing for as long as a collection asks about it. If it is 0, what is missing is gone.
	Patience time.Duration
}

// A Server serves backup clients.
type Server struct {
	zone     *time.Location
	log      *slog.Logger
	identity *Identity
	stores   map[string]*datastore
	access   Access
	tasks    tasks
	bodies   chan struct{} // one for each upload that is in memory
	browsers chan struct{} // one for each call that looks into an archive
	routes   http.Handler
	http     *http.Server
	started  time.Time

	maxReaders int // of a hold

	stopping context.Context // ends when the server stops
	stop     context.CancelFunc

	mu          sync.Mutex
	connections map[*upgradedConn]struct{} // each a backup or a restore
	idle        sync.WaitGroup             // connections and tasks that run
}

type datastore struct {
	Datastore
	server *Server
	turns  turns.By[string] // to change a group, by its root; and what nsTurn and writing name
	lastGC atomic.Pointer[collected]
}

// maxBodies is how many uploads may be in memory at once, each a chunk of at most 16 MiB, and what it decodes to.
const maxBodies = 32

// New returns a server, after it let go of what sessions of a former process held.
func New(ctx context.Context, o Options) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Zone == nil {
		o.Zone = time.Local
	}
	s := &Server{
		zone: o.Zone, log: o.Log, identity: o.Identity, access: o.Access, stores: map[string]*datastore{},
		bodies: make(chan struct{}, maxBodies), browsers: make(chan struct{}, maxBrowsers),
		started: time.Now(), maxReaders: maxReaders, connections: map[*upgradedConn]struct{}{},
	}
	s.stopping, s.stop = context.WithCancel(context.Background())
	for _, d := range o.Datastores {
		s.stores[d.Name] = &datastore{Datastore: d, server: s}
	}
	for _, d := range s.stores {
		if err := d.releaseSessions(ctx); err != nil {
			return nil, err
		}
	}
	s.routes = s.newRoutes()
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serveHTTP),
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       5 * time.Minute,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug), // scanners' handshakes
	}
	return s, nil
}

// Fingerprint returns the fingerprint of the certificate, as clients want it.
func (s *Server) Fingerprint() string { return s.identity.Fingerprint() }

// Serve takes connections from l, which speak TLS, until Shutdown.
func (s *Server) Serve(l net.Listener) error {
	return s.http.Serve(&tlsListener{l, s.identity.tlsConfig()})
}

// Shutdown stops taking connections, lets backups and restores finish until ctx ends, and then cuts them. A backup
// that was not finished leaves nothing.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	s.stop()
	s.mu.Lock()
	waiting := len(s.connections)
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.idle.Wait(); close(done) }()
	select {
	case <-done:
		return err
	case <-ctx.Done():
	}
	s.mu.Lock()
	for c := range s.connections {
		_ = c.Close()
	}
	s.mu.Unlock()
	<-done
	_ = s.http.Close()
	if err == nil && waiting > 0 {
		err = errors.New("backups or restores that were still running were cut")
	}
	return err
}

// Stats is what the server does at the moment.
type Stats struct {
	Sessions int `json:"sessions"` // backups and restores that run
}

// Stats returns what the server does at the moment.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{len(s.connections)}
}
