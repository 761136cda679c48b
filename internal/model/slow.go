package model

import (
	"context"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// A Slow store takes some time to write a root, in which another server may write it.
type Slow struct{ *Store }

const slowly = 5 * time.Millisecond

// Keep implements blob.Keeper.
func (s Slow) Keep(ctx context.Context, name string, value []byte, blobs digest.Set) error {
	time.Sleep(slowly)
	return s.Store.Keep(ctx, name, value, blobs)
}

// KeepIf implements blob.Keeper.
func (s Slow) KeepIf(ctx context.Context, name string, was *blob.Root, value []byte, blobs digest.Set) error {
	time.Sleep(slowly)
	return s.Store.KeepIf(ctx, name, was, value, blobs)
}
