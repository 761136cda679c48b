package bucket

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Memory is a bucket in memory. Its zero value is empty. It keeps the whole contract, and does what a network may do
// where it is told to.
type Memory struct {
	// Before, if set, is called before each request takes effect, without any lock, with the verb and the key.
	Before func(op, key string)
	// Fault, if set, says what becomes of a request.
	Fault func(op, key string) Fault
	// PageSize is how many objects a listing's page has at most; 0 is 1000.
	PageSize int

	mu      sync.Mutex
	objects map[string]stored
	late    []*request
	count   map[string]int
}

type stored struct {
	data []byte
	Object
}

// A Fault is what becomes of a request.
type Fault int

// The faults.
const (
	None      Fault = iota
	Refuse          // ErrBusy before it has any effect
	Lose            // it takes effect, and the answer is lost
	Late            // the answer is an error, and it takes effect when Land is called
	Vanish          // the answer is an error, and it never takes effect
	Duplicate       // it takes effect, and again when Land is called
	Cut             // of a Get, half of the bytes come
	Flip            // of a Get, one bit comes otherwise
)

// A request is what may take effect later.
type request struct {
	op, key string
	issued  time.Time
	act     func() error
}

func (m *Memory) do(ctx context.Context, op, key string, act func() error) (Fault, error) {
	at, fixed := issued(ctx)
	if m.Before != nil {
		m.Before(op, key)
	}
	if !fixed {
		at = time.Now() // a request is signed when it is sent
	}
	f := None
	if m.Fault != nil {
		f = m.Fault(op, key)
	}
	r := &request{op, key, at, act}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.count == nil {
		m.count = map[string]int{}
	}
	m.count[op]++
	if err := ctx.Err(); err != nil {
		return f, &Error{op, key, "", err}
	}
	switch f {
	case Refuse:
		return f, &Error{op, key, "", ErrBusy}
	case Late, Vanish:
		if f == Late {
			m.late = append(m.late, r)
		}
		return f, &Error{op, key, "", ErrUnknown}
	}
	err := r.run()
	switch {
	case f == Lose:
		return f, &Error{op, key, "", ErrUnknown}
	case f == Duplicate:
		m.late = append(m.late, r)
	}
	if err != nil {
		return f, &Error{op, key, "", err}
	}
	return f, nil
}

func (r *request) run() error {
	if time.Since(r.issued) > MaxAge {
		return ErrClock
	}
	return r.act()
}

// Land lets requests take effect that are late: all whose verb is op, or all if that is "". It returns how many.
func (m *Memory) Land(op string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	var rest []*request
	n := 0
	for _, r := range m.late {
		if op != "" && r.op != op {
			rest = append(rest, r)
			continue
		}
		_ = r.run() // nobody waits for the answer
		n++
	}
	m.late = rest
	return n
}

// Get implements Bucket.
func (m *Memory) Get(ctx context.Context, key string, off, n int64) (data []byte, o Object, err error) {
	f, err := m.do(ctx, "get", key, func() error {
		s, ok := m.objects[key]
		if !ok {
			return ErrNotFound
		}
		o = s.Object
		data = s.data[min(off, o.Size):]
		if n >= 0 && n < int64(len(data)) {
			data = data[:n]
		}
		return nil
	})
	if err != nil {
		return nil, Object{}, err
	}
	switch {
	case f == Cut && len(data) > 0:
		return nil, o, &Error{"get", key, "", fmt.Errorf("%w: %d of %d bytes came", ErrDamaged, len(data)/2, len(data))}
	case f == Flip && len(data) > 0:
		data = slices.Clone(data)
		data[len(data)/2] ^= 1
	}
	return data, o, nil
}

// Head implements Bucket.
func (m *Memory) Head(ctx context.Context, key string) (o Object, err error) {
	_, err = m.do(ctx, "head", key, func() error {
		s, ok := m.objects[key]
		if !ok {
			return ErrNotFound
		}
		o = s.Object
		return nil
	})
	return o, err
}

// Put implements Bucket.
func (m *Memory) Put(ctx context.Context, key string, body io.ReaderAt, size int64, when Condition) (o Object, err error) {
	data := make([]byte, size)
	if n, err := body.ReadAt(data, 0); int64(n) < size {
		return o, &Error{"put", key, "", err}
	}
	_, err = m.do(ctx, "put", key, func() error {
		old, ok := m.objects[key]
		if ok && when.Absent || when.ETag != "" && old.ETag != when.ETag {
			return ErrCondition
		}
		if m.objects == nil {
			m.objects = map[string]stored{}
		}
		o = Object{key, size, ETag(data), time.Now()}
		m.objects[key] = stored{data, o}
		return nil
	})
	if err != nil {
		return Object{}, err
	}
	return o, nil
}

// ETag returns the entity tag that S3 gives to an object that was written in one piece.
func ETag(data []byte) string {
	sum := md5.Sum(data)
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

// Delete implements Bucket.
func (m *Memory) Delete(ctx context.Context, keys ...string) (left []string, err error) {
	keys = slices.Clone(keys)
	name := strings.Join(keys, " ")
	_, err = m.do(ctx, "delete", name, func() error {
		if len(keys) > MaxDelete {
			return fmt.Errorf("%d keys are too many", len(keys))
		}
		for _, key := range keys {
			delete(m.objects, key)
		}
		return nil
	})
	if err != nil {
		return keys, err
	}
	return nil, nil
}

// List implements Bucket.
func (m *Memory) List(ctx context.Context, prefix, after string) (p Page, err error) {
	limit := m.PageSize
	if limit == 0 {
		limit = 1000
	}
	_, err = m.do(ctx, "list", prefix, func() error {
		for key, s := range m.objects {
			if strings.HasPrefix(key, prefix) && key > after {
				p.Objects = append(p.Objects, s.Object)
			}
		}
		slices.SortFunc(p.Objects, func(a, b Object) int { return strings.Compare(a.Key, b.Key) })
		p.More = len(p.Objects) > limit
		p.Objects = p.Objects[:min(len(p.Objects), limit)]
		p.Date = time.Now()
		return nil
	})
	if err != nil {
		return Page{}, err
	}
	return p, nil
}

// Sweep implements Bucket. Nothing is uploaded in parts here.
func (m *Memory) Sweep(ctx context.Context, prefix string, before time.Time) (int, error) {
	return 0, nil
}

// Keys returns the keys that begin with prefix, sorted. It is no request.
func (m *Memory) Keys(prefix string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(m.objects)), func(key string) bool { return !strings.HasPrefix(key, prefix) })
}

// Value returns an object's bytes, which must not be changed. It is no request.
func (m *Memory) Value(key string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.objects[key].data
}

// Set writes an object, and removes it if data is nil. It is no request.
func (m *Memory) Set(key string, data []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if data == nil {
		delete(m.objects, key)
		return
	}
	if m.objects == nil {
		m.objects = map[string]stored{}
	}
	m.objects[key] = stored{data, Object{key, int64(len(data)), ETag(data), time.Now()}}
}

// Requests returns how many requests of a verb were made.
func (m *Memory) Requests(op string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.count[op]
}

// Pending returns the verbs and keys of requests that are late, in their order.
func (m *Memory) Pending() (names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.late {
		names = append(names, r.op+" "+r.key)
	}
	return names
}
