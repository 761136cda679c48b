package redis

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
)

// A connections counts and holds those that are open.
type connections struct {
	mu   sync.Mutex
	open map[*connection]struct{}
}

type connection struct {
	net.Conn
	of *connections
}

// open makes a connection.
func (c *Client) open(ctx context.Context, address string, d *net.Dialer, over *tls.Config) (conn net.Conn, err error) {
	if err := c.ctx.Err(); err != nil {
		return nil, err
	}
	if over == nil {
		conn, err = d.DialContext(ctx, "tcp", address)
	} else {
		conn, err = (&tls.Dialer{NetDialer: d, Config: over}).DialContext(ctx, "tcp", address)
	}
	if err != nil {
		return nil, err
	}
	held := &connection{conn, &c.connections}
	c.connections.mu.Lock()
	defer c.connections.mu.Unlock()
	if c.connections.open == nil {
		c.connections.open = map[*connection]struct{}{}
	}
	c.connections.open[held] = struct{}{}
	return held, nil
}

// Close implements net.Conn.
func (c *connection) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

func (c *connections) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open)
}

// cut ends what waits for an answer.
func (c *connections) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.open {
		_ = conn.Conn.Close() // who waits there learns it
	}
}
