package pbs_test

import (
	"bytes"
	"context"
	"sync"
	"testing"

	"github.com/sarsen-build/sarsen/backup/pbs/format"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/pbstest"
)

// A watched store says which blobs are opened.
type watched struct {
	*model.Store
	mu     sync.Mutex
	opened map[digest.Key]chan struct{} // closed at the first Open
}

func (w *watched) of(d digest.Digest) chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.opened[d.Key()] == nil {
		w.opened[d.Key()] = make(chan struct{})
	}
	return w.opened[d.Key()]
}

// Open implements blob.Store.
func (w *watched) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	c := w.of(d)
	w.mu.Lock()
	select {
	case <-c:
	default:
		close(c)
	}
	w.mu.Unlock()
	return w.Store.Open(ctx, d)
}

// TestReadAhead: who asks for one chunk of an index has the next ones read meanwhile; asked for in any other order they
// are right too.
func TestReadAhead(t *testing.T) {
	store := &watched{forgets(), sync.Mutex{}, map[digest.Key]chan struct{}{}}
	f := start(t, store)
	data := bytesOf(4, 500<<10)
	data = append(data, data[:100<<10]...) // some chunks come twice
	backUp(t, f.Client, host, nil, data)
	store.mu.Lock()
	store.opened = map[digest.Key]chan struct{}{}
	store.mu.Unlock()

	r, err := f.Restore(t.Context(), host, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.Download(t.Context(), "root.pxar.didx"); err != nil {
		t.Fatal(err)
	}
	pieces := pbstest.Cut(data)
	want := func(i int) {
		t.Helper()
		got, err := r.Chunk(t.Context(), (*pbstest.Key)(nil).Digest(pieces[i]))
		if err != nil || !bytes.Equal(got, pieces[i]) {
			t.Errorf("chunk %d: %v", i, err)
		}
	}
	want(3)
	for i := 4; i < 10; i++ {
		<-store.of(digest.SHA256.Of(format.EncodeBlob(pieces[i]))) // nobody asked for it
	}
	for i := range pieces {
		want(len(pieces) - 1 - i)
	}
	for i := range pieces {
		want(i)
	}
	for i := range pieces {
		want(i * 7 % len(pieces))
	}
}
