package gocache

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// A request is what the go command asks for. One with BodySize > 0 is followed by a JSON string, the body in
// base64.
type request struct {
	ID       int64
	Command  string
	ActionID []byte
	OutputID []byte
	BodySize int64
}

// A response answers the request of the same ID. The first one, of ID 0, answers none.
type response struct {
	ID            int64
	Err           string     `json:",omitempty"`
	KnownCommands []string   `json:",omitempty"`
	Miss          bool       `json:",omitempty"`
	OutputID      []byte     `json:",omitempty"`
	Size          int64      `json:",omitempty"`
	Time          *time.Time `json:",omitempty"`
	DiskPath      string     `json:",omitempty"`
}

const (
	// maxRequest is how long a request may be without its body, in bytes.
	maxRequest = 64 << 10
	// maxLookups is how many gets are answered at once.
	maxLookups = 256
)

// ErrProtocol says that the other end is no go command.
var ErrProtocol = errors.New("not the requests of a go command")

// A session is one go command.
type session struct {
	cache   *Cache
	in      *bufio.Reader
	lookups chan struct{}

	mu  sync.Mutex
	out *json.Encoder
	err error // of out
}

// Serve answers the requests of one go command until it closes or goes away. When it returns, the uploads are done
// or given up, and all was answered. The caller ends what the go command waits for, and then calls trim, which may
// take a while.
func (c *Cache) Serve(ctx context.Context, in io.Reader, out io.Writer) (trim func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &session{cache: c, in: bufio.NewReaderSize(in, maxRequest), lookups: make(chan struct{}, maxLookups), out: json.NewEncoder(out)}
	s.answer(response{KnownCommands: []string{"get", "put", "close"}})
	closing, err := s.requests(ctx)
	if err != nil || closing == nil {
		cancel() // nobody waits for what is being looked up
	}
	for range maxLookups {
		s.lookups <- struct{}{}
	}
	trim = c.close(closing != nil)
	if closing != nil {
		s.answer(response{ID: closing.ID})
	}
	return trim, errors.Join(err, s.err)
}

// requests serves requests until the one that closes, which it returns, or until there are no more.
func (s *session) requests(ctx context.Context) (*request, error) {
	for {
		r, err := readRequest(s.in)
		if err == nil && r.Command == "close" {
			return &r, nil
		}
		if err == nil {
			err = s.serve(ctx, r)
		}
		if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, nil // the go command was killed
		}
		if err != nil {
			return nil, err
		}
	}
}

// serve serves one request. It returns an error only if the requests that follow can't be read.
func (s *session) serve(ctx context.Context, r request) error {
	switch r.Command {
	case "get":
		s.lookups <- struct{}{}
		go func() {
			defer func() { <-s.lookups }()
			s.answer(s.get(ctx, r))
		}()
		return discardBody(s.in, r)
	case "put":
		answer, err := s.put(r)
		if err == nil {
			s.answer(answer)
		}
		return err
	}
	s.answer(response{ID: r.ID, Err: fmt.Sprintf("unknown command %.40q", r.Command)})
	return discardBody(s.in, r)
}

func (s *session) answer(r response) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.out.Encode(r); s.err == nil {
		s.err = err
	}
}

func (s *session) get(ctx context.Context, r request) response {
	action, err := idOf(r.ActionID)
	if err != nil {
		return response{ID: r.ID, Err: err.Error()}
	}
	e, name, ok := s.cache.get(ctx, action)
	if !ok {
		return response{ID: r.ID, Miss: true}
	}
	return response{ID: r.ID, OutputID: e.output[:], Size: e.size, Time: &e.time, DiskPath: name}
}

// put keeps a body. It returns an error as serve does.
func (s *session) put(r request) (response, error) {
	action, wrong := idOf(r.ActionID)
	output, bad := idOf(r.OutputID)
	if wrong = errors.Join(wrong, bad); wrong != nil {
		return response{ID: r.ID, Err: wrong.Error()}, discardBody(s.in, r)
	}
	body, err := bodyOf(s.in, r)
	if err != nil {
		return response{}, err
	}
	name, err := s.cache.put(action, output, body, r.BodySize)
	if err == nil {
		return response{ID: r.ID, DiskPath: name}, nil
	}
	_, broken := io.Copy(io.Discard, body)
	return response{ID: r.ID, Err: err.Error()}, broken
}

// readRequest reads a request, without its body. The lines between requests are empty.
func readRequest(in *bufio.Reader) (r request, err error) {
	for {
		line, err := in.ReadSlice('\n')
		switch trimmed := bytes.TrimSpace(line); {
		case len(trimmed) > 0 && err == nil:
			if err := json.Unmarshal(trimmed, &r); err != nil {
				return r, fmt.Errorf("%w: %w", ErrProtocol, err)
			}
			if r.BodySize < 0 {
				return r, fmt.Errorf("%w: a BodySize of %d", ErrProtocol, r.BodySize)
			}
			return r, nil
		case err == io.EOF && len(trimmed) == 0:
			return r, io.EOF
		case err == io.EOF:
			return r, io.ErrUnexpectedEOF
		case err != nil:
			return r, fmt.Errorf("%w: %w", ErrProtocol, err)
		}
	}
}

// bodyOf returns the body of r, which follows in in and must be read to its end.
func bodyOf(in *bufio.Reader, r request) (io.Reader, error) {
	if r.BodySize == 0 {
		return bytes.NewReader(nil), nil
	}
	for {
		switch c, err := in.ReadByte(); {
		case err == io.EOF:
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		case c == '"':
			return base64.NewDecoder(base64.StdEncoding, &quoted{in: in}), nil
		case c != ' ' && c != '\t' && c != '\r' && c != '\n':
			return nil, fmt.Errorf("%w: a body begins with %q", ErrProtocol, c)
		}
	}
}

func discardBody(in *bufio.Reader, r request) error {
	body, err := bodyOf(in, r)
	if err == nil {
		_, err = io.Copy(io.Discard, body)
	}
	return err
}

// quoted reads up to the quotation mark that ends a string. Base64 needs no escapes.
type quoted struct {
	in   *bufio.Reader
	done bool
}

func (q *quoted) Read(p []byte) (int, error) {
	if q.done {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	if _, err := q.in.Peek(1); err == io.EOF {
		return 0, io.ErrUnexpectedEOF
	} else if err != nil {
		return 0, err
	}
	here, _ := q.in.Peek(min(len(p), q.in.Buffered()))
	n := bytes.IndexByte(here, '"')
	if q.done = n >= 0; !q.done {
		n = len(here)
	}
	if bytes.IndexByte(here[:n], '\\') >= 0 {
		return 0, fmt.Errorf("%w: an escape in a body", ErrProtocol)
	}
	copy(p, here[:n])
	skip := n
	if q.done {
		skip++
	}
	_, err := q.in.Discard(skip)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}
