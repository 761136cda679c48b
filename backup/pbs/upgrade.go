package pbs

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sarsen-build/sarsen/internal/refusal"
)

// The protocols that a connection is upgraded to.
const (
	backupProtocol = "proxmox-backup-protocol-v1"
	readerProtocol = "proxmox-backup-reader-protocol-v1"
)

// A protocol is what the calls of an upgraded connection go to.
type protocol interface {
	http.Handler
	// end is called once, after the connection ended.
	end()
}

// upgrade answers a request for a protocol with the connection itself, which then speaks HTTP/2.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request, name string, begin func(*params, *Account) (protocol, error)) error {
	a, err := s.authenticate(r)
	if err != nil {
		return err
	}
	if !slices.Contains(r.Header.Values("Upgrade"), name) {
		return badRequest("invalid upgrade header: want '%s'", name)
	}
	p, err := paramsOf(r, false)
	if err != nil {
		return err
	}
	if s.stopping.Err() != nil {
		return refusal.New(http.StatusServiceUnavailable, "the server is stopping")
	}
	proto, err := begin(p, a)
	if err != nil {
		return err
	}
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		proto.end()
		return err
	}
	rest, _ := buf.Reader.Peek(buf.Reader.Buffered())
	c := &upgradedConn{Conn: conn, rest: io.MultiReader(strings.NewReader(string(rest)), conn), closed: make(chan struct{})}
	s.mu.Lock()
	s.connections[c] = struct{}{}
	s.idle.Add(1)
	s.mu.Unlock()
	go func() {
		defer s.idle.Done()
		defer func() {
			s.mu.Lock()
			delete(s.connections, c)
			s.mu.Unlock()
		}()
		defer proto.end()
		if err := s.speak(c, name, proto); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.log.Debug("a connection ended", "protocol", name, "err", err)
		}
	}()
	return nil
}

// How much a client may send of one call before it is read, in what pieces, and in how many calls at once. The
// connection has room for all of that together: what waits for its turn to be read never keeps back what is being read.
const (
	windowSize = 4 << 20
	frameSize  = 1 << 20
	maxStreams = 16
)

// speak answers that the upgrade is done, and serves HTTP/2 until the connection ends.
func (s *Server) speak(conn *upgradedConn, name string, h http.Handler) error {
	defer conn.Close()
	_ = conn.SetDeadline(time.Time{})
	long := time.AfterFunc(maxConnection, func() { _ = conn.Close() })
	defer long.Stop()
	w := bufio.NewWriter(conn)
	_, _ = io.WriteString(w, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: "+name+"\r\n\r\n")
	if err := w.Flush(); err != nil {
		return err
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true) // what encrypts is below
	server := &http.Server{
		Handler: h, Protocols: protocols, ErrorLog: s.http.ErrorLog,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerConnection: maxStreams * windowSize, MaxReceiveBufferPerStream: windowSize, MaxReadFrameSize: frameSize,
			MaxConcurrentStreams: maxStreams,
		},
		// A connection that says nothing is a backup of what does not change.
		ReadHeaderTimeout: 0,
	}
	err := server.Serve(&oneListener{conn: conn})
	_ = server.Close()
	return err
}

// A call is one request of a protocol or of the REST interface. It answers a value, which is sent as JSON, or what
// it sends itself.
type call func(ctx context.Context, w http.ResponseWriter, r *http.Request) (any, error)

// sent is the answer of a call that has sent one.
var sent = new(struct{})

// answer makes a call and sends what it answers.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, c call) {
	v, err := c(r.Context(), w, r)
	switch {
	case err != nil:
		s.fail(w, r, err)
	case v != any(sent):
		writeJSON(w, map[string]any{"data": v})
	}
}
