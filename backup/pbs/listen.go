package pbs

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"sync"
)

// A tlsListener takes TLS connections whose first request may lack a Host header, as a client in the field
// sends it: net/http refuses those before any handler sees them.
type tlsListener struct {
	net.Listener
	config *tls.Config
}

func (l *tlsListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &hostConn{Conn: tls.Server(c, l.config)}, nil
}

// A hostConn gives the first request that is read a Host header if it has none.
type hostConn struct {
	net.Conn
	looked bool
	head   []byte // what was read and not yet handed on
	err    error
}

// maxHead is how much is read in search of the end of a header.
const maxHead = 64 << 10

func (c *hostConn) Read(p []byte) (int, error) {
	if !c.looked {
		c.look()
	}
	if len(c.head) > 0 {
		n := copy(p, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	if err := c.err; err != nil {
		c.err = nil
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *hostConn) look() {
	buf, end := make([]byte, 4096), -1
	for end < 0 && c.err == nil && len(c.head) < maxHead {
		n, err := c.Conn.Read(buf)
		c.head, c.err = append(c.head, buf[:n]...), err
		end = bytes.Index(c.head, []byte("\r\n\r\n"))
	}
	c.looked = true
	first := bytes.Index(c.head, []byte("\r\n"))
	if end < 0 || bytes.Contains(bytes.ToLower(c.head[:end]), []byte("\r\nhost:")) {
		return
	}
	with := append(bytes.Clone(c.head[:first+2]), "Host: localhost\r\n"...)
	c.head = append(with, c.head[first+2:]...)
}

// A oneListener hands out one connection, and then waits for it to be closed.
type oneListener struct {
	conn *upgradedConn
	once sync.Once
}

func (l *oneListener) Accept() (net.Conn, error) {
	var c net.Conn
	l.once.Do(func() { c = l.conn })
	if c != nil {
		return c, nil
	}
	<-l.conn.closed
	return nil, net.ErrClosed
}

func (l *oneListener) Close() error   { return nil }
func (l *oneListener) Addr() net.Addr { return l.conn.LocalAddr() }

// An upgradedConn is a connection after its upgrade. The server that spoke HTTP/1.1 may have read of what came after.
type upgradedConn struct {
	net.Conn
	rest   io.Reader // what was read too early, then the connection
	closed chan struct{}
	once   sync.Once
}

func (c *upgradedConn) Read(p []byte) (int, error) { return c.rest.Read(p) }

func (c *upgradedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { close(c.closed) })
	return err
}
