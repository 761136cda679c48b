// Package pbstest is a client of Proxmox Backup Server's protocol, for tests: it backs up, in full and building upon
// the previous snapshot, encrypts, restores and decrypts, and it can do wrong what a test wants done wrong.
//
// # Concurrency
//
// A Client may be used by many goroutines. A Backup or Restore belongs to one, but for Call.
package pbstest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// A Client knows one server.
type Client struct {
	Addr        string // HOST:PORT
	Fingerprint string // of the certificate, in any case
	Auth        string // the Authorization header
	Header      http.Header
	Store       string
}

// A Snapshot is the name of one.
type Snapshot struct {
	NS, Type, ID string
	Time         int64
}

// Query returns the parameters that name the snapshot.
func (s Snapshot) Query() url.Values {
	q := url.Values{"backup-type": {s.Type}, "backup-id": {s.ID}}
	if s.Time != 0 {
		q.Set("backup-time", strconv.FormatInt(s.Time, 10))
	}
	if s.NS != "" {
		q.Set("ns", s.NS)
	}
	return q
}

// A StatusError is what a server answered that refused.
type StatusError struct {
	Code int
	Text string
}

func (e *StatusError) Error() string { return fmt.Sprintf("%d: %s", e.Code, e.Text) }

// Code returns the status of a refusal, 200 for nil, and 0 for any other error.
func Code(err error) int {
	if err == nil {
		return http.StatusOK
	}
	if e, ok := errors.AsType[*StatusError](err); ok {
		return e.Code
	}
	return 0
}

// Dial connects, and compares the fingerprint.
func (c *Client) Dial(ctx context.Context) (net.Conn, error) {
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error {
		sum := sha256.Sum256(s.PeerCertificates[0].Raw)
		if want := strings.ToLower(strings.ReplaceAll(c.Fingerprint, ":", "")); hex.EncodeToString(sum[:]) != want {
			return fmt.Errorf("the fingerprint is %x, want %s", sum, want)
		}
		return nil
	}}}
	return d.DialContext(ctx, "tcp", c.Addr)
}

// REST makes a call below /api2/json and decodes what it answers into out, unless that is nil. A body that is nil
// leaves the parameters to the query.
func (c *Client) REST(ctx context.Context, method, path string, query url.Values, body []byte, out any) error {
	t := &http.Transport{DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.Dial(ctx) }, DisableKeepAlives: true}
	defer t.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, method, "https://"+c.Addr+"/api2/json"+path+"?"+query.Encode(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	for name, values := range c.Header {
		r.Header[name] = values
	}
	if c.Auth != "" {
		r.Header.Set("Authorization", c.Auth)
	}
	return do(&http.Client{Transport: t}, r, out)
}

// Admin makes a call to the client's datastore.
func (c *Client) Admin(ctx context.Context, method, name string, query url.Values, out any) error {
	return c.REST(ctx, method, "/admin/datastore/"+c.Store+"/"+name, query, nil, out)
}

// do sends a request. What is not JSON goes to out if that is a *[]byte.
func do(client *http.Client, r *http.Request, out any) error {
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return &StatusError{resp.StatusCode, string(b)}
	}
	if raw, ok := out.(*[]byte); ok {
		*raw = b
		return nil
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, &struct {
		Data any `json:"data"`
	}{out})
}

// A session is an upgraded connection.
type session struct {
	conn net.Conn
	http *http.Client
}

// upgrade asks for a protocol as clients in the field do: without a Host header.
func (c *Client) upgrade(ctx context.Context, path, protocol string, s Snapshot, more url.Values) (*session, error) {
	conn, err := c.Dial(ctx)
	if err != nil {
		return nil, err
	}
	q := s.Query()
	q.Set("store", c.Store)
	for name, values := range more {
		q[name] = values
	}
	fmt.Fprintf(conn, "GET /%s?%s HTTP/1.1\r\nAuthorization: %s\r\nUpgrade: %s\r\nConnection: Upgrade\r\n\r\n", path, q.Encode(), c.Auth, protocol)
	buf := bufio.NewReader(conn)
	resp, err := http.ReadResponse(buf, nil)
	if err != nil {
		conn.Close()
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer conn.Close()
		text, _ := io.ReadAll(resp.Body)
		return nil, &StatusError{resp.StatusCode, string(text)}
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	t := &http.Transport{Protocols: protocols, DialContext: func(context.Context, string, string) (net.Conn, error) { return rest{conn, buf}, nil }}
	only, err := t.NewClientConn(ctx, "http", "backup:80")
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &session{conn, &http.Client{Transport: only}}, nil
}

// A rest is a connection whose first bytes are in a buffer.
type rest struct {
	net.Conn
	buf *bufio.Reader
}

func (r rest) Read(p []byte) (int, error) { return r.buf.Read(p) }

// Call makes a call of the protocol.
func (s *session) Call(ctx context.Context, method, path string, query url.Values, body []byte, out any) error {
	return s.CallFrom(ctx, method, path, query, bytes.NewReader(body), out)
}

// CallFrom makes a call whose body comes as it comes.
func (s *session) CallFrom(ctx context.Context, method, path string, query url.Values, body io.Reader, out any) error {
	r, err := http.NewRequestWithContext(ctx, method, "http://backup/"+path+"?"+query.Encode(), body)
	if err != nil {
		return err
	}
	return do(s.http, r, out)
}

// Close ends the connection, as it is.
func (s *session) Close() {
	s.conn.Close()
}
