package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// An httpTarget is where an HTTP cache listens.
type httpTarget struct {
	address string // HOST:PORT
	prefix  string // of all paths, without a slash at its end
}

// parseHTTP reads http://HOST:PORT[/PREFIX].
func parseHTTP(text string) (*httpTarget, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" || u.Port() == "" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("HTTP cache %q: want http://HOST:PORT, with a path if the cache has an instance prefix", text)
	}
	return &httpTarget{u.Host, strings.TrimSuffix(u.EscapedPath(), "/")}, nil
}

// An httpConn is one connection to the cache, kept from request to request. It writes HTTP/1.1 by
// itself, since net/http's client takes as much CPU as a good server does.
type httpConn struct {
	target *httpTarget
	conn   net.Conn
	reader *bufio.Reader
}

func (c *httpConn) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// do sends a request whose head and body are given, and reads the answer's body into buffer.
func (c *httpConn) do(ctx context.Context, buffer []byte, request ...[]byte) (code int, body []byte, err error) {
	if c.conn == nil {
		var dialer net.Dialer
		if c.conn, err = dialer.DialContext(ctx, "tcp", c.target.address); err != nil {
			return 0, nil, err
		}
		c.reader = bufio.NewReaderSize(c.conn, 16*kib)
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.conn.SetDeadline(deadline); err != nil {
			return 0, nil, err
		}
	}
	// What goes wrong on a connection leaves nothing on it to go on from.
	keep := false
	defer func() {
		if !keep {
			c.close()
		}
	}()
	buffers := net.Buffers(request)
	if _, err := buffers.WriteTo(c.conn); err != nil {
		return 0, nil, err
	}
	answer, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return 0, nil, err
	}
	body = buffer[:0]
	for {
		if len(body) == cap(body) {
			body = append(body, 0)[:len(body)]
		}
		n, err := answer.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, nil, err
		}
	}
	keep = !answer.Close
	return answer.StatusCode, body, nil
}

// head returns the head of a request for p, up to the blank line.
func (t *httpTarget) head(method string, p *payload) []byte {
	length := ""
	if method == http.MethodPut {
		length = fmt.Sprintf("Content-Length: %d\r\n", p.digest.Size)
	}
	return fmt.Appendf(nil, "%s %s/cas/%s HTTP/1.1\r\nHost: %s\r\nUser-Agent: sarsen-bench\r\n%s\r\n", method, t.prefix, p.hex, t.address, length)
}

// checkCode returns an error for an answer that is not a success.
func checkCode(code int, body []byte) error {
	switch {
	case code >= 200 && code < 300:
		return nil
	case code == http.StatusMethodNotAllowed || code == http.StatusNotImplemented:
		return fmt.Errorf("%w: HTTP status %d", errUnsupported, code)
	}
	return fmt.Errorf("HTTP status %d: %s", code, strings.TrimSpace(string(body[:min(len(body), 200)])))
}

func httpPut(_ context.Context, s *session, n int) (call, error) {
	blobs := s.fresh(n, 4*kib)
	heads := make([][]byte, n)
	for i := range blobs {
		heads[i] = s.http.head(http.MethodPut, &blobs[i])
	}
	return func(ctx context.Context, w *worker, i int) (load, error) {
		code, body, err := w.http.do(ctx, w.scratch, heads[i], blobs[i].head)
		if err != nil {
			return load{}, err
		}
		w.scratch = body
		return load{1, blobs[i].digest.Size}, checkCode(code, body)
	}, nil
}

func httpGet(ctx context.Context, s *session, n int) (call, error) {
	blobs, err := s.present(ctx, s.scaled(n, 10_000), 4*kib)
	if err != nil {
		return nil, err
	}
	heads := make([][]byte, len(blobs))
	for i := range blobs {
		heads[i] = s.http.head(http.MethodGet, &blobs[i])
	}
	return func(ctx context.Context, w *worker, i int) (load, error) {
		i %= len(blobs)
		code, body, err := w.http.do(ctx, w.scratch, heads[i])
		if err != nil {
			return load{}, err
		}
		w.scratch = body
		if err := checkCode(code, body); err != nil {
			return load{}, err
		}
		if int64(len(body)) != blobs[i].digest.Size || !blobs[i].equal(0, body) {
			return load{}, fmt.Errorf("wrong bytes for %s", blobs[i].hex)
		}
		return load{1, blobs[i].digest.Size}, nil
	}, nil
}
