package ccachestorage

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sarsen-build/sarsen/internal/tlsfiles"
)

// A Remote is the server that has the values.
type Remote struct {
	base   url.URL
	header http.Header
	layout func(key string) string
	client *http.Client
	wrong  error // or nil

	ca, cert, key string // files
}

// Unusable returns a Remote of which every request fails with err. ccache waits ten seconds for a helper that
// doesn't come, in each of its processes, so one that was told nonsense comes and says so.
func Unusable(err error) Remote { return Remote{wrong: err} }

// An Attribute is what ccache's remote_storage says after the URL, as @NAME=VALUE.
type Attribute struct{ Name, Value string }

// NewRemote reads a URL http://[USER:PASSWORD@]HOST[:PORT]/PATH, or https, and the attributes that ccache's own HTTP
// storage has: bearer-token=TOKEN, header=NAME=VALUE, and layout=subdirs|flat|bazel; and tls-ca=FILE, tls-cert=FILE and
// tls-key=FILE for https. Others are an error.
func NewRemote(text string, attributes []Attribute) (Remote, error) {
	u, err := url.Parse(text)
	if err != nil {
		// What is wrong with it may be a part of a password.
		return Remote{}, errors.New("the URL can't be read: want http://HOST/PATH or https://HOST/PATH")
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return Remote{}, fmt.Errorf("%q: want http://HOST/PATH or https://HOST/PATH", u.Redacted())
	}
	r := Remote{base: *u, header: http.Header{"User-Agent": {"sarsen ccache-storage"}}, layout: layouts["subdirs"]}
	if u.User != nil {
		password, _ := u.User.Password()
		basic := http.Request{Header: r.header}
		basic.SetBasicAuth(u.User.Username(), password)
	}
	r.base.User, r.base.RawQuery, r.base.Fragment = nil, "", ""
	for _, a := range attributes {
		if err := r.set(a); err != nil {
			return Remote{}, err
		}
	}
	config, err := tlsfiles.Client(r.ca, r.cert, r.key)
	if err != nil {
		return Remote{}, err
	}
	r.client = &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: config, Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
			// A value is stored as it is.
			DisableCompression: true,
		},
		// A server that answers elsewhere would get what is meant for this one.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return r, nil
}

func (r *Remote) set(a Attribute) error {
	switch a.Name {
	case "bearer-token":
		r.header.Set("Authorization", "Bearer "+a.Value)
	case "header":
		name, value, ok := strings.Cut(a.Value, "=")
		if !ok || name == "" {
			return fmt.Errorf("attribute header: want NAME=VALUE")
		}
		r.header.Add(name, value)
	case "layout":
		if r.layout = layouts[a.Value]; r.layout == nil {
			return fmt.Errorf("attribute layout: want subdirs, flat or bazel, not %q", a.Value)
		}
	case "tls-ca":
		r.ca = a.Value
	case "tls-cert":
		r.cert = a.Value
	case "tls-key":
		r.key = a.Value
	case "keep-alive", "connect-timeout", "operation-timeout":
		// They are about connections, of which this process takes care.
	default:
		return fmt.Errorf("unknown attribute %q", a.Name)
	}
	return nil
}

// layouts are how ccache's own storage names a key, of at least 40 hexadecimal digits.
var layouts = map[string]func(string) string{
	"subdirs": func(key string) string { return key[:2] + "/" + key[2:] },
	"flat":    func(key string) string { return key },
	"bazel":   func(key string) string { return "ac/" + (key + key)[:64] },
}

// minKey is the shortest key that every layout can name, in bytes.
const minKey = 16

func (r *Remote) url(key []byte) (string, error) {
	if r.wrong != nil {
		return "", r.wrong
	}
	if len(key) < minKey {
		return "", fmt.Errorf("a key of %d bytes is too short", len(key))
	}
	u := r.base
	u.Path = strings.TrimSuffix(u.Path, "/") + "/" + r.layout(hex.EncodeToString(key))
	u.RawPath = ""
	return u.String(), nil
}

// slow is the part of the timeout within which a request without a body should be answered.
const slow = 4

// errAway says that the server was not asked.
var errAway = errors.New("the server did not answer a moment ago")

// A call is a request to the server. It is broken off when for Options.Timeout nothing moves.
type call struct {
	server   *Server
	cancel   context.CancelFunc
	stalled  *time.Timer
	late     atomic.Bool
	lent     *lent // or nil
	response *http.Response
}

// ask sends a request. The caller ends the call.
func (s *Server) ask(ctx context.Context, method string, key []byte, body io.Reader, size int64) (*call, error) {
	to, err := s.o.Remote.url(key)
	if err != nil {
		return nil, err
	}
	if !s.breaker.Allow() {
		return nil, errAway
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &call{server: s, cancel: cancel}
	begun := time.Now()
	c.stalled = time.AfterFunc(s.o.Timeout, func() { c.late.Store(true); cancel() })
	var sent io.Reader
	if body != nil {
		c.lent = &lent{from: progress{body, c}}
		sent = c.lent
	}
	if size == 0 {
		sent = http.NoBody // else its length would count as unknown
	}
	request, err := http.NewRequestWithContext(ctx, method, to, sent)
	if err == nil {
		request.ContentLength = size
		request.Header = s.o.Remote.header.Clone()
		// Each request may be made again where the server closed a connection just then. No such header is sent.
		request.Header["Idempotency-Key"] = []string{}
		if h, ok := body.(held); ok {
			request.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(progress{bytes.NewReader(h.value), c}), nil }
		}
		if body != nil {
			request.Header.Set("Content-Type", "application/octet-stream")
		}
		c.response, err = s.o.Remote.client.Do(request)
	}
	if err != nil {
		broken := c.end()
		if broken != nil {
			s.breaker.Well() // it was the client that did not go on
			return nil, broken
		}
		s.breaker.Away()
		if c.late.Load() {
			return nil, fmt.Errorf("the server did not answer within %v", s.o.Timeout)
		}
		// Without the URL, which may hold what should not be logged.
		var about *url.Error
		if errors.As(err, &about) {
			err = about.Err
		}
		return nil, err
	}
	if size > 0 {
		s.breaker.Well() // a body takes what it takes
	} else {
		s.breaker.Answered(time.Since(begun), s.o.Timeout/slow)
	}
	return c, nil
}

// moved says that bytes came or went.
func (c *call) moved() { c.stalled.Reset(c.server.o.Timeout) }

// end ends the call, after which nobody reads the body that was sent. It returns why that could not be read.
func (c *call) end() error {
	late := !c.stalled.Stop() && c.late.Load()
	if c.response != nil {
		if late {
			c.server.breaker.Away()
		} else {
			// So that the connection can be used again.
			io.CopyN(io.Discard, c.response.Body, 64<<10)
		}
		c.response.Body.Close()
	}
	c.cancel()
	if c.lent != nil {
		return c.lent.takeBack()
	}
	return nil
}

// A lent body is read by the HTTP client, which may still do so when the answer has come.
type lent struct {
	mu   sync.Mutex
	from io.Reader
	err  error
}

func (l *lent) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return 0, l.err
	}
	n, err := l.from.Read(p)
	l.err = err
	return n, err
}

// takeBack ends reading, and returns why there was nothing more to read, if that is not the end.
func (l *lent) takeBack() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.err
	if l.err == nil {
		l.err = io.ErrClosedPipe
	}
	if err == io.EOF {
		return nil
	}
	return err
}

// A progress is a body that keeps its call alive.
type progress struct {
	io.Reader
	call *call
}

func (p progress) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	if n > 0 {
		p.call.moved()
	}
	return n, err
}

// A value is on its way from the server.
type value struct {
	io.Reader
	size int64
	call *call
}

func (v *value) Close() error { return v.call.end() }

// maxUnsized is how large a value of unannounced size may be, in bytes: it has to be read before it is passed on.
const maxUnsized = 16 << 20

// get asks for a value; nil is a miss.
func (s *Server) get(ctx context.Context, r request) (*value, error) {
	c, err := s.ask(ctx, http.MethodGet, r.key, nil, 0)
	if err != nil {
		return nil, err
	}
	body, size := io.Reader(progress{c.response.Body, c}), c.response.ContentLength
	if c.response.StatusCode == http.StatusOK && size < 0 {
		data, err := io.ReadAll(io.LimitReader(body, maxUnsized+1))
		if err != nil || len(data) > maxUnsized {
			c.end()
			return nil, errors.Join(errors.New("the server's answer can't be read"), err)
		}
		body, size = bytes.NewReader(data), int64(len(data))
	}
	switch {
	case c.response.StatusCode == http.StatusOK && size > 0 && size <= maxValue:
		return &value{body, size, c}, nil
	case c.response.StatusCode == http.StatusOK, c.response.StatusCode == http.StatusNotFound:
		err = nil // ccache makes no value of no bytes
	default:
		err = c.refusal()
	}
	c.end()
	return nil, err
}

// refusal is a status that stands neither for yes nor for no.
func (c *call) refusal() error { return fmt.Errorf("the server answers %s", c.response.Status) }

// maxHeld is how large a value may be, in bytes, that is read before it is sent, so that it can be sent again.
const maxHeld = 256 << 10

// A held value is in memory.
type held struct {
	*bytes.Reader
	value []byte
}

// put stores a value, unless there is one and r says to leave it.
func (s *Server) put(ctx context.Context, r request, body io.Reader) (done bool, err error) {
	if !r.overwrite {
		c, err := s.ask(ctx, http.MethodHead, r.key, nil, 0)
		if err != nil {
			return false, err
		}
		is := c.response.StatusCode
		c.end()
		if is == http.StatusOK {
			return false, nil
		}
	}
	if r.size <= maxHeld {
		value := make([]byte, r.size)
		if _, err := io.ReadFull(body, value); err != nil {
			return false, whole(err)
		}
		body = held{bytes.NewReader(value), value}
	}
	c, err := s.ask(ctx, http.MethodPut, r.key, body, int64(r.size))
	if err != nil {
		return false, err
	}
	defer c.end()
	return c.stored()
}

// stored reads the answer to a change.
func (c *call) stored() (bool, error) {
	switch is := c.response.StatusCode; {
	case is >= 200 && is < 300:
		return true, nil
	case is == http.StatusNotFound || is == http.StatusForbidden || is == http.StatusMethodNotAllowed || is == http.StatusConflict:
		return false, nil
	}
	return false, c.refusal()
}

// erase removes a value.
func (s *Server) erase(ctx context.Context, r request) (done bool, err error) {
	c, err := s.ask(ctx, http.MethodDelete, r.key, nil, 0)
	if err != nil {
		return false, err
	}
	defer c.end()
	return c.stored()
}

// info is what ccache logs about this process.
func (s *Server) info() []byte {
	b := appendMessage(nil, s.o.Identity)
	if s.o.Remote.wrong != nil {
		return appendMessage(append(b, 1), s.o.Remote.wrong.Error())
	}
	if !s.breaker.IsAway() {
		return append(b, 0)
	}
	return appendMessage(append(b, 1), "the server at "+s.o.Remote.base.Redacted()+" does not answer")
}
