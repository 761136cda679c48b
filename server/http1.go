package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// peekTime is how long a new connection may take to say its first bytes.
	peekTime = 10 * time.Second
	// hintTime is how long a client that speaks HTTP/1 may take to read the answer.
	hintTime = 3 * time.Second
)

// preface is how an HTTP/2 connection begins, as far as it tells it from HTTP/1 (RFC 9113, section
// 3.4).
var preface = []byte("PRI ")

// listenHTTP2 returns l without the connections that speak HTTP/1. gRPC drops those without a word,
// and Bazel, pointed at this port with http://, then tries for 150 s: so they are answered here.
func (s *Server) listenHTTP2(l net.Listener) net.Listener {
	h := &http2Listener{Listener: l, server: s, accepted: make(chan accepted), closed: make(chan struct{})}
	go h.accept()
	return h
}

type http2Listener struct {
	net.Listener
	server   *Server
	accepted chan accepted
	closed   chan struct{}
	close    sync.Once
}

type accepted struct {
	conn net.Conn
	err  error
}

// Accept implements net.Listener.
func (l *http2Listener) Accept() (net.Conn, error) {
	select {
	case a := <-l.accepted:
		return a.conn, a.err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *http2Listener) Close() error {
	l.close.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// accept looks at each connection in a goroutine of its own, so that a silent one holds up no other.
func (l *http2Listener) accept() {
	for {
		conn, err := l.Listener.Accept()
		if err == nil {
			go l.peek(conn)
			continue
		}
		if !l.deliver(accepted{err: err}) || errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

// deliver hands a over to Accept, and reports false if nobody will take it any more.
func (l *http2Listener) deliver(a accepted) bool {
	select {
	case l.accepted <- a:
		return true
	case <-l.closed:
		return false
	}
}

// peek reads as much of conn as tells what it speaks.
func (l *http2Listener) peek(conn net.Conn) {
	head := make([]byte, 24)
	conn.SetReadDeadline(time.Now().Add(peekTime))
	n, err := io.ReadAtLeast(conn, head, len(preface))
	head = head[:n]
	switch {
	case err == nil && bytes.HasPrefix(head, preface):
		conn.SetReadDeadline(time.Time{})
		if l.deliver(accepted{conn: &peekedConn{conn, head}}) {
			return
		}
	case err == nil && isMethod(head):
		l.server.hint(conn, bytes.HasPrefix(head, []byte("HEAD ")))
	}
	conn.Close()
}

// isMethod reports whether head can be the beginning of an HTTP/1 request, which is a method in upper
// case. What else comes is mostly TLS, for which no plain answer would help.
func isMethod(head []byte) bool {
	for _, c := range head[:len(preface)] {
		if c != ' ' && c != '/' && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return true
}

// hint answers a request that came to the wrong port, whatever it was.
func (s *Server) hint(conn net.Conn, head bool) {
	text := fmt.Sprintf("this is the gRPC port; use grpc://%s\n", conn.LocalAddr())
	if s.httpAddr != nil {
		if addr := s.httpAddr(); addr != "" {
			text = fmt.Sprintf("this is the gRPC port; HTTP caches are at http://%s\n", addr)
		}
	}
	answer := fmt.Sprintf("HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n", len(text))
	if !head {
		answer += text
	}
	s.metrics.wrongPort.Inc()
	conn.SetDeadline(time.Now().Add(hintTime))
	if _, err := io.WriteString(conn, answer); err != nil {
		return
	}
	// To close with unread bytes resets the connection, and the client would lose the answer.
	if half, ok := conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		io.CopyN(io.Discard, conn, 64<<20)
	}
}

// A peekedConn is a connection of which the head has been read.
type peekedConn struct {
	net.Conn
	head []byte
}

// Read implements net.Conn.
func (c *peekedConn) Read(p []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(p, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}
