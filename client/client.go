// Package client speaks the Remote Execution API to one server, for the commands that look inside.
//
// It asks for one thing at a time and trusts nobody: what is read is hashed before it is called read,
// directories that GetTree returns are identified by hashing them again, and calls that a server does
// not offer (batches, GetTree) are replaced by those that every server has.
//
// # Invariants
//
//   - A read that returns nil delivered exactly the bytes of the digest.
//   - Every error names the server and what was asked of it.
//
// # Concurrency
//
// All methods of a Client may be called from many goroutines at once.
package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	bspb "google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/sarsen-build/sarsen/digest"
)

const (
	// A server that does not answer its capabilities by then is not there for a person who waits.
	dialTimeout = 10 * time.Second

	// A message carries names besides blobs, and servers receive 4 MiB by default, so a batch of our
	// own making stays below this many bytes of blobs, whatever the server offers.
	maxBatch = 4<<20 - 64<<10

	// Room for a server that sends a whole tree in one message.
	maxReceive = 256 << 20

	// A window is how much may be on its way unacknowledged: over a line of 200 ms, one download gets
	// 80 MB/s and all of one connection 160 MB/s.
	streamWindow     = 16 << 20
	connectionWindow = 32 << 20
)

// A Target is where a server listens.
type Target struct {
	Address string // HOST:PORT
	TLS     bool
}

// ParseTarget reads grpc://HOST:PORT, grpcs://HOST:PORT (TLS, trusting the system's roots) or plain
// HOST:PORT.
func ParseTarget(text string) (Target, error) {
	address, t := text, Target{}
	if scheme, rest, ok := strings.Cut(text, "://"); ok {
		switch scheme {
		case "grpc":
		case "grpcs":
			t.TLS = true
		default:
			return Target{}, fmt.Errorf("server %q: unknown scheme %q, want grpc://HOST:PORT or grpcs://HOST:PORT", text, scheme)
		}
		address = strings.TrimSuffix(rest, "/")
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "" || strings.Contains(address, "/") {
		return Target{}, fmt.Errorf("server %q: want grpc://HOST:PORT", text)
	}
	if host == "" {
		host = "localhost"
	}
	t.Address = net.JoinHostPort(host, port)
	return t, nil
}

// String returns the form that ParseTarget reads.
func (t Target) String() string {
	if t.TLS {
		return "grpcs://" + t.Address
	}
	return "grpc://" + t.Address
}

// Connect makes one connection, which is opened when it is first used.
func (t Target) Connect(options ...grpc.DialOption) (*grpc.ClientConn, error) {
	transport := insecure.NewCredentials()
	if t.TLS {
		transport = credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12})
	}
	options = append([]grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connectionWindow),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceive)),
	}, options...)
	conn, err := grpc.NewClient(t.Address, options...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t, err)
	}
	return conn, nil
}

// A Client asks one instance of one server.
type Client struct {
	target   Target
	instance string
	conn     *grpc.ClientConn

	cas    repb.ContentAddressableStorageClient
	cache  repb.ActionCacheClient
	stream bspb.ByteStreamClient

	capabilities *repb.ServerCapabilities
	batchLimit   int64       // bytes of blobs in a batch
	noBatches    atomic.Bool // the server turned out to have none
}

// Dial connects to target (see ParseTarget) and asks for the capabilities of instance, so that a
// server which is not there is found out at once.
func Dial(ctx context.Context, target, instance string, options ...grpc.DialOption) (*Client, error) {
	t, err := ParseTarget(target)
	if err != nil {
		return nil, err
	}
	conn, err := t.Connect(options...)
	if err != nil {
		return nil, err
	}
	c := &Client{
		target: t, instance: instance, conn: conn,
		cas:        repb.NewContentAddressableStorageClient(conn),
		cache:      repb.NewActionCacheClient(conn),
		stream:     bspb.NewByteStreamClient(conn),
		batchLimit: maxBatch,
	}
	if err := c.askCapabilities(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *Client) askCapabilities(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	got, err := repb.NewCapabilitiesClient(c.conn).GetCapabilities(ctx, &repb.GetCapabilitiesRequest{InstanceName: c.instance})
	switch status.Code(err) {
	case codes.OK:
		c.capabilities = got
	case codes.Unimplemented:
		// A plain CAS is a server too.
		c.capabilities = &repb.ServerCapabilities{}
	default:
		return c.fail("ask for capabilities", err)
	}
	if limit := c.capabilities.GetCacheCapabilities().GetMaxBatchTotalSizeBytes(); limit > 0 {
		c.batchLimit = min(limit, maxBatch)
	}
	return nil
}

// Capabilities returns what the server said of itself. It is empty for a server that says nothing.
func (c *Client) Capabilities() *repb.ServerCapabilities { return c.capabilities }

// speaks returns an error if the server says that it does not know f, which would otherwise show as
// blobs that are missing or refused without a reason.
func (c *Client) speaks(f digest.Function) error {
	known := c.capabilities.GetCacheCapabilities().GetDigestFunctions()
	if len(known) == 0 || slices.Contains(known, function(f)) {
		return nil
	}
	return fmt.Errorf("the server does not know the digest function %s, only %v", f, known)
}

// Target returns where the server listens.
func (c *Client) Target() Target { return c.target }

// Close ends the connection and every call that is under way.
func (c *Client) Close() error { return c.conn.Close() }
