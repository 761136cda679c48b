package upstream_test

import (
	"context"
	"path"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// calls counts calls by name, and lets some fail.
type calls struct {
	mu   sync.Mutex
	n    map[string]int
	fail func(name string, nth int) error // of the nth call of a name, from 0; nil for none
	// broken ends a stream after as many messages received, if it returns more than 0.
	broken func(name string, nth int) int
}

// count notes a call and returns what number it has and why it fails.
func (c *calls) count(method string) (int, error) {
	name := path.Base(method)
	c.mu.Lock()
	defer c.mu.Unlock()
	nth := c.n[name]
	c.n[name]++
	if c.fail == nil {
		return nth, nil
	}
	return nth, c.fail(name, nth)
}

// of returns how many calls of a name were made.
func (c *calls) of(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[name]
}

func (c *calls) dial(t testing.TB, addr string) *grpc.ClientConn {
	return dial(t, addr,
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if _, err := c.count(method); err != nil {
				return err
			}
			return invoke(ctx, method, req, reply, cc, opts...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			nth, err := c.count(method)
			if err != nil {
				return nil, err
			}
			stream, err := streamer(ctx, desc, cc, method, opts...)
			if err != nil || c.broken == nil {
				return stream, err
			}
			return &brokenStream{stream, c.broken(path.Base(method), nth)}, nil
		}))
}

// A brokenStream is one whose connection is lost after left messages have come.
type brokenStream struct {
	grpc.ClientStream
	left int
}

func (b *brokenStream) RecvMsg(m any) error {
	if b.left == 1 {
		return status.Error(codes.Unavailable, "the connection is lost")
	}
	if b.left > 1 {
		b.left--
	}
	return b.ClientStream.RecvMsg(m)
}
