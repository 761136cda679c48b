// Package s3fault is a network between a client and an S3 server that does what networks and servers may do to requests:
// it loses, delays, repeats and reorders them, refuses them in S3's words, and damages answers.
//
// What becomes of a request is decided by the seed, the request's method and address, and how often that was seen before.
// So the same seed does the same to the same requests, in whatever order they come.
//
// Concurrency: a Transport may be used from many goroutines. Close waits for what is late.
package s3fault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Fault is what becomes of a request.
type Fault int

// The faults.
const (
	None      Fault = iota
	Before          // an error, and the request has no effect
	After           // an error, and it has its effect
	Slow            // 503 SlowDown, without effect
	Broken          // 500 InternalError, with its effect
	Conflict        // 409 ConditionalRequestConflict, without effect; for a request on a condition, else Slow
	Unmet           // 412 PreconditionFailed, without effect; for a request on a condition, else Slow
	Delayed         // it comes later
	Duplicate       // it comes twice, at once, and either answer is taken
	Late            // an error, and it has its effect when others have had theirs
	Cut             // half of the answer's body comes; for GET, else Before
	Flipped         // a bit of the answer's body comes otherwise; for GET of an object, which has a checksum, else After
	faults
)

// All are the faults but None.
func All() (all []Fault) {
	for f := None + 1; f < faults; f++ {
		all = append(all, f)
	}
	return all
}

// ErrLost is the error of a request that the network lost.
var ErrLost = errors.New("s3fault: the network lost it")

// Timeout reports that another try may do better.
type lost struct{ error }

func (lost) Timeout() bool { return true }

// A Transport is an http.RoundTripper.
type Transport struct {
	Next http.RoundTripper
	// Fault says what becomes of a request that was seen n times before.
	Fault func(r *http.Request, n int) Fault
	// Pause is for how long what is delayed or late stays away; 0 is 20 ms.
	Pause time.Duration

	mu   sync.Mutex
	seen map[string]int
	done map[Fault]int
	late sync.WaitGroup
}

// Seeded returns a Fault function by which one request in so many has a fault.
func Seeded(seed uint64, oneIn int) func(r *http.Request, n int) Fault {
	all := All()
	return func(r *http.Request, n int) Fault {
		h := fnv.New64a()
		fmt.Fprint(h, r.Method, r.URL.Path, r.URL.RawQuery, n)
		rng := rand.New(rand.NewPCG(seed, h.Sum64()))
		if rng.IntN(oneIn) > 0 {
			return None
		}
		return all[rng.IntN(len(all))]
	}
}

// Close waits until all that is late has come.
func (t *Transport) Close() { t.late.Wait() }

// Done returns how often a request had a fault.
func (t *Transport) Done(f Fault) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.done[f]
}

// choose returns what becomes of a request.
func (t *Transport) choose(r *http.Request) Fault {
	name := r.Method + r.URL.Path + "?" + r.URL.RawQuery
	t.mu.Lock()
	n := t.seen[name]
	if t.seen == nil {
		t.seen, t.done = map[string]int{}, map[Fault]int{}
	}
	t.seen[name]++
	t.mu.Unlock()
	f := t.Fault(r, n)
	conditional := r.Header.Get("If-Match")+r.Header.Get("If-None-Match") != ""
	switch {
	case (f == Conflict || f == Unmet) && !conditional:
		f = Slow
	case f == Cut && r.Method != http.MethodGet:
		f = Before
	case f == Flipped && (r.Method != http.MethodGet || r.URL.Query().Has("list-type")):
		f = After
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done[f]++
	return f
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	f := t.choose(r)
	if f == None {
		return t.Next.RoundTrip(r)
	}
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
		_ = r.Body.Close()
	}
	send := func(ctx context.Context) (*http.Response, error) {
		again := r.Clone(ctx)
		if r.Body != nil {
			again.Body = io.NopCloser(bytes.NewReader(body))
		}
		return t.Next.RoundTrip(again)
	}
	switch f {
	case Before:
		return nil, lost{ErrLost}
	case Slow:
		return answer(r, http.StatusServiceUnavailable, "SlowDown"), nil
	case Conflict:
		return answer(r, http.StatusConflict, "ConditionalRequestConflict"), nil
	case Unmet:
		return answer(r, http.StatusPreconditionFailed, "PreconditionFailed"), nil
	case Delayed:
		time.Sleep(t.pause())
		return send(r.Context())
	case Late:
		t.late.Go(func() {
			time.Sleep(4 * t.pause())
			discard(send(context.WithoutCancel(r.Context())))
		})
		return nil, lost{ErrLost}
	case Duplicate:
		t.late.Go(func() { discard(send(context.WithoutCancel(r.Context()))) })
		return send(r.Context())
	}
	res, err := send(r.Context())
	if err != nil {
		return nil, err
	}
	return spoil(f, r, res)
}

// spoil changes an answer.
func spoil(f Fault, r *http.Request, res *http.Response) (*http.Response, error) {
	body, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	switch {
	case err != nil:
		return nil, err
	case f == After:
		return nil, lost{ErrLost}
	case f == Broken:
		return answer(r, http.StatusInternalServerError, "InternalError"), nil
	case f == Flipped && len(body) > 0:
		body = slices.Clone(body)
		body[len(body)/2] ^= 1
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	if f == Cut {
		res.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body[:len(body)/2]), broken{}))
	}
	return res, nil
}

// A broken body ends as a connection that breaks does.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func (t *Transport) pause() time.Duration {
	if t.Pause > 0 {
		return t.Pause
	}
	return 20 * time.Millisecond
}

func discard(res *http.Response, err error) {
	if err == nil {
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
	}
}

// answer is what a server says that does not carry out a request.
func answer(r *http.Request, status int, code string) *http.Response {
	body := fmt.Sprintf("<Error><Code>%s</Code><Message>s3fault</Message></Error>", code)
	if r.Method == http.MethodHead {
		body = ""
	}
	return &http.Response{
		StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r, Header: http.Header{},
		ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body)),
	}
}
