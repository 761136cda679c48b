package tier

import (
	"context"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// Create implements blob.Store. What the near store has no room for goes to the far one at once.
func (s *Store) Create(ctx context.Context, d digest.Digest) (blob.Writer, error) {
	w, err := s.near.Create(ctx, d)
	if roomless(err) {
		return s.far.Create(ctx, d)
	}
	if err != nil {
		return nil, err
	}
	// The Writer outlives the call's context, and climbing is a part of its Commit.
	return &writer{Writer: w, ctx: context.WithoutCancel(ctx), store: s, d: d}, nil
}

type writer struct {
	blob.Writer
	ctx   context.Context
	store *Store
	d     digest.Digest
}

// Commit implements blob.Writer.
func (w *writer) Commit() error {
	if err := w.Writer.Commit(); err != nil || w.d.IsEmpty() {
		return err
	}
	t, err := w.store.acknowledge(w.ctx, w.d)
	if t == nil {
		return err
	}
	return w.store.await(w.ctx, w.d, t)
}
