// Package compiler is the user's daemon behind `sarsen cc`: it knows what compiles gave, and says to each
// launcher (package launch) whether to take that or to run the compiler.
//
// An entry is everything that one compile wrote and said: one action result over blobs. A manifest says, for a
// source compiled in one way, which headers led to which entries, so that a hit takes no preprocessor. Both
// lie in a ring on this disk, and on any REAPI server if one is given.
//
// # Invariants
//
//   - WholeEntry: an entry or a manifest is seen whole or not at all; one goroutine at a time changes a
//     manifest, and counters are added to atomically, so no update is lost.
//   - NoFalseHit: an entry is taken only if the compiler, everything in its key, every file that was read, and
//     every place where another would have been found first are as they were. When in doubt the compiler runs.
//   - SameThere: what a server compiles is what the compiler here would have written: the action's root has the
//     files, links and directories that the compile looks at here, the compiler among them, and whatever is not
//     sure to be so is compiled here.
//   - Outputs are read while the launcher waits, so they are the compiler's; if it left meanwhile, nothing
//     is stored.
//
// # Concurrency
//
// A goroutine for each launcher. Locks guard maps and are not held across reads and writes; who changes a
// manifest holds a channel.
//
// # Crashes
//
// The ring recovers by itself (package segment). Counters lie in mapped memory, which survives a kill.
package compiler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"github.com/sarsen-build/sarsen/compiler/launch"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/segment"
)

// Options are what a daemon is told. Dir is required.
type Options struct {
	Dir            string // of the cache; only this user may enter it
	MaxSize        int64  // bytes of disk, DefaultMaxSize if 0
	Remote         grpc.ClientConnInterface
	Instance       string            // of the remote
	RemoteReadOnly bool              // nothing is uploaded
	Execute        bool              // the remote compiles what is not known; SARSEN_CC_REMOTE_EXECUTE of a compile comes first
	Platform       map[string]string // what its workers must have, that of this machine if empty
	ExecuteJobs    int               // compiles that are executed at once, DefaultExecuteJobs if 0
	ExecuteQueue   time.Duration     // for which a compile is left in the remote queue while a processor is idle here, DefaultExecuteQueue if 0
	Mode           string            // ModeDepend if ""; SARSEN_CC_MODE of a compile comes first
	Idle           time.Duration     // without work the daemon ends after it; never if 0
	Log            *slog.Logger
}

// DefaultMaxSize is how much disk a cache takes unless it is told otherwise, in bytes.
const DefaultMaxSize = 5 << 30

// leaseTime is how long an entry that was found can be read: much longer than it takes.
const leaseTime = time.Minute

// A Daemon answers launchers.
type Daemon struct {
	o         Options
	view      string
	processor string // what -march=native depends on
	log       *slog.Logger
	stats     *Counters
	files     *hashes
	dirs      *directories
	ids       *identities
	entries   *entries
	executor  *executor // nil without a remote
	past      *past
	writers   *writers
	temp      string
	names     atomic.Uint64 // of temporary files
	last      atomic.Int64  // nanoseconds since 1970 of the last word of a launcher
	active    sync.WaitGroup
	busy      atomic.Int64
	end       context.CancelFunc
}

// CountersIn returns the path of the statistics in a cache's folder.
func CountersIn(dir string) string { return filepath.Join(dir, "statistics") }

// Open opens the cache in a folder.
func Open(ctx context.Context, o Options) (*Daemon, error) {
	if o.MaxSize == 0 {
		o.MaxSize = DefaultMaxSize
	}
	if o.ExecuteJobs == 0 {
		o.ExecuteJobs = DefaultExecuteJobs
	}
	if o.ExecuteQueue == 0 {
		o.ExecuteQueue = DefaultExecuteQueue
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	d := &Daemon{o: o, view: launch.View(), processor: processor(), log: o.Log, past: newPast(), temp: filepath.Join(o.Dir, "tmp")}
	// What lies here was some compile's that nobody waits for.
	if err := os.RemoveAll(d.temp); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(d.temp, 0o700); err != nil {
		return nil, err
	}
	var err error
	if d.stats, err = OpenCounters(CountersIn(o.Dir)); err != nil {
		return nil, err
	}
	store := filepath.Join(o.Dir, "store")
	if err := os.MkdirAll(store, 0o700); err != nil {
		return nil, errors.Join(err, d.stats.Close())
	}
	ring, err := segment.Open(ctx, vfs.OS{}, store, segment.Options{
		MaxSize: max(o.MaxSize, segment.MinSize), Lease: leaseTime, Durability: segment.None, Log: o.Log,
	})
	if err != nil {
		return nil, errors.Join(err, d.stats.Close())
	}
	d.files, d.dirs, d.writers = newHashes(), newDirectories(), &writers{current: map[string]*place{}}
	d.ids = newIdentities(d.files)
	var far *remote
	if o.Remote != nil {
		far = newRemote(o.Remote, o.Instance, o.RemoteReadOnly, ring, d.count)
	}
	d.entries = newEntries(ring, far)
	if o.Remote != nil {
		d.executor = newExecutor(&d.o)
	}
	return d, nil
}

// The files that a launcher gives the daemon that it starts.
const (
	socketFile = 3
	lockFile   = 4
)

// backlog is how many launchers may wait to be accepted.
const backlog = 1024

// Run is the life of the process that a launcher started: it serves the socket that it was given until ctx
// ends or it has been idle for long enough. The lock that it was given ends with it.
func Run(ctx context.Context, o Options) error {
	closeInherited()
	socket, lock := os.NewFile(socketFile, "socket"), os.NewFile(lockFile, "lock")
	defer lock.Close() // last: who has it may start another one
	l, err := net.FileListener(socket)
	if err != nil {
		return fmt.Errorf("the launcher starts the daemon itself: %w", err)
	}
	// The process that listens is the one that launchers see at the other end.
	if err := syscall.Listen(int(socket.Fd()), backlog); err != nil {
		return err
	}
	socket.Close()
	defer l.Close()
	// A launcher that comes when there is nobody to accept it waits in vain.
	defer os.Remove(launch.SocketIn(o.Dir))
	d, err := Open(ctx, o)
	if err != nil {
		return err
	}
	err = d.Serve(ctx, l.(*net.UnixListener))
	os.Remove(launch.SocketIn(o.Dir))
	return errors.Join(err, d.Close())
}

// drainTime is how long an ending daemon goes on with uploads.
const drainTime = 30 * time.Second

// Close ends uploads and closes the store. Serve has returned before.
func (d *Daemon) Close() error {
	if d.executor != nil {
		d.executor.close()
	}
	if far := d.entries.remote; far != nil {
		ctx, cancel := context.WithTimeout(context.Background(), drainTime)
		far.drain(ctx)
		cancel()
		far.close()
	}
	return errors.Join(d.entries.ring.Close(), d.stats.Close())
}

func (d *Daemon) count(name string) { d.stats.Add(name, 1) }

// Serve answers launchers until ctx ends or the daemon has been idle for long enough.
func (d *Daemon) Serve(ctx context.Context, l *net.UnixListener) error {
	ctx, d.end = context.WithCancel(ctx)
	defer d.end()
	d.last.Store(time.Now().UnixNano())
	go d.endIdle(ctx)
	go func() {
		<-ctx.Done()
		l.Close()
	}()
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			d.active.Wait()
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		d.busy.Add(1)
		d.active.Go(func() {
			defer d.busy.Add(-1)
			defer conn.Close()
			d.serve(ctx, conn)
			d.last.Store(time.Now().UnixNano())
		})
	}
}

// endIdle ends the daemon when nobody has asked for a while, or when its folder was removed.
func (d *Daemon) endIdle(ctx context.Context) {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if _, err := os.Stat(d.temp); err != nil {
			d.end()
		}
		if d.o.Idle > 0 && d.busy.Load() == 0 && time.Now().UnixNano()-d.last.Load() > int64(d.o.Idle) {
			d.end()
		}
	}
}

// serve has one conversation.
func (d *Daemon) serve(ctx context.Context, conn *net.UnixConn) {
	if !sameUser(conn) {
		return
	}
	p := newPeer(conn)
	kind, body, err := p.receive(helloTime)
	if err != nil {
		if !errors.Is(err, io.EOF) {
			d.log.Debug("launcher", "error", err)
		}
		return
	}
	switch kind {
	case launch.Request:
		var ask launch.Ask
		if ask.Decode(body) != nil || ask.Version != launch.Version {
			p.send(launch.Pass, nil)
			if ask.Version != launch.Version { // another program is installed now; its daemon takes over
				d.end()
			}
			return
		}
		d.compile(ctx, p, &ask)
	case Query:
		d.answer(ctx, p, body)
	}
}
