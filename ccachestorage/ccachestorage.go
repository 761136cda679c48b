// Package ccachestorage is a storage helper of ccache: what reaches a server for all ccache processes of a user.
//
// ccache 4.13 and later asks it over a unix socket (doc/remote_storage_helper_spec.md in ccache's sources), and it
// asks the server over HTTP or HTTPS, under the same names as ccache's own HTTP storage. So both share entries.
// Connections to the server are kept, TLS included, where each ccache would make its own.
//
// # Invariants
//
//   - Every request is answered, at the latest after Options.Timeout without a byte from the server. A server that
//     did not answer is not asked for a while, and requests are answered at once.
//   - A value is sent whole, or the connection ends in the middle of it, which ccache takes for an error.
//   - Bounded: the connections, the size of a value, and what is in memory of it.
//   - The socket can be used by its owner only.
//
// # Concurrency
//
// A goroutine serves each connection, and one waits for idleness.
//
// # Crashes
//
// A kill leaves the socket's file. Whoever starts next and finds that nobody listens there takes its place.
package ccachestorage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sarsen-build/sarsen/internal/breaker"
	"github.com/sarsen-build/sarsen/internal/mutant"
)

// Options say where a Server listens and whom it asks.
type Options struct {
	Socket string
	Remote Remote
	// IdleTimeout is how long the server stays without a connection; for ever if 0.
	IdleTimeout time.Duration
	// Timeout is how long the remote server may take for an answer, and for the next bytes: 3 s if 0.
	Timeout time.Duration
	// Identity is what the server calls itself.
	Identity string
}

// maxConnections is how many ccache processes are served at once. Others wait.
const maxConnections = 1024

// A Server listens on a socket.
type Server struct {
	o        Options
	listener *net.UnixListener
	file     os.FileInfo // the socket's
	breaker  breaker.Breaker

	mu    sync.Mutex
	conns map[net.Conn]bool
	idle  *time.Timer // runs while there is no connection
	ended bool
}

// Listen makes the socket, which must not be in use, with permissions for the user alone. It changes the
// process's umask for that moment.
func Listen(o Options) (*Server, error) {
	if o.Timeout <= 0 {
		o.Timeout = 3 * time.Second
	}
	if err := removeStale(o.Socket); err != nil {
		return nil, err
	}
	mask := 0o077
	if mutant.SocketShared {
		mask = 0
	}
	old := unix.Umask(mask)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: o.Socket, Net: "unix"})
	unix.Umask(old)
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // the name may be another's by then
	file, err := os.Lstat(o.Socket)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &Server{o: o, listener: l, file: file, conns: map[net.Conn]bool{}}, nil
}

// removeStale removes the socket of a process that is gone.
func removeStale(name string) error {
	info, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is there and is no socket", name)
	}
	conn, err := net.DialTimeout("unix", name, time.Second)
	if err == nil {
		conn.Close()
		return fmt.Errorf("%s: another process listens there", name)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return err
	}
	return os.Remove(name)
}

// Serve answers ccache until it is told to stop, ctx ends, or nobody was connected for the idle timeout. Then it
// removes the socket. It doesn't wait for requests that are under way.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, s.stop)
	defer stop()
	defer s.stop()
	s.mu.Lock()
	if s.o.IdleTimeout > 0 {
		s.idle = time.AfterFunc(s.o.IdleTimeout, s.stop)
	}
	s.mu.Unlock()
	slots := make(chan struct{}, maxConnections)
	for {
		slots <- struct{}{}
		conn, err := s.listener.Accept()
		if err != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.ended {
				return nil
			}
			return err
		}
		if !s.add(conn) {
			conn.Close()
			return nil
		}
		go func() {
			defer func() { <-slots }()
			defer s.remove(conn)
			s.converse(ctx, conn)
		}()
	}
}

func (s *Server) add(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.conns[conn] = true
	if s.idle != nil {
		s.idle.Stop()
	}
	return true
}

func (s *Server) remove(conn net.Conn) {
	conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
	if s.idle != nil && len(s.conns) == 0 && !s.ended {
		s.idle.Reset(s.o.IdleTimeout)
	}
}

// stop ends Serve and all connections. If the idle timer comes at the moment at which somebody connects, he is
// sent away.
func (s *Server) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.ended = true
	// The name goes first: nobody should connect to a listener that is about to close.
	if file, err := os.Lstat(s.o.Socket); err == nil && os.SameFile(file, s.file) {
		os.Remove(s.o.Socket)
	}
	s.listener.Close()
	for conn := range s.conns {
		conn.Close()
	}
}
