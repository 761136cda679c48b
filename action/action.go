// Package action is the action cache: what running an action gave, complete or absent.
//
// # Invariants
//
//   - Complete: no result is served unless everything that it names could be leased in one pass:
//     output files, trees and every file inside them, root directories walked, stdout and stderr.
//
// # Concurrency
//
// All methods may be called from many goroutines at once. For one key the last Put wins whole.
//
// # Crashes
//
// A result is acknowledged only after it and the blobs that it names are durable (blob.Records.Put).
package action

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// A Key says which action's result is meant. Instances share blobs but not results.
type Key struct {
	Instance string
	Action   digest.Digest
}

// An IncompleteError is returned by Put for a result that names blobs which are not there.
type IncompleteError struct {
	Missing []digest.Digest
}

func (e *IncompleteError) Error() string {
	return fmt.Sprintf("the result names %d missing blobs, the first is %s; upload the outputs before the result", len(e.Missing), e.Missing[0])
}

// A Cache maps actions to results.
type Cache struct {
	store   blob.Store
	records blob.Records
}

// New returns the cache of the results in records, whose blobs are in store.
func New(store blob.Store, records blob.Records) *Cache {
	return &Cache{store: store, records: records}
}
