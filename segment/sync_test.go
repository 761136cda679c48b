package segment

import (
	"errors"
	"testing"

	"github.com/sarsen-build/sarsen/internal/vfs"
)

// TestSyncAllSyncsAll: copies lie in two segments, and the sync of the first fails. The ledger will name
// those in the second, so they must be on the disk.
func TestSyncAllSyncsAll(t *testing.T) {
	r := openRing(t, &vfs.Mem{}, small)
	var moves []*move
	for i := range byte(2) {
		req := &request{key: recordKey([32]byte{i}), size: 1, data: []byte{i}, by: mover, moved: true}
		if err := r.append(req); err != nil {
			t.Fatal(err)
		}
		moves = append(moves, &move{extent: req.extent})
		r.sealActive(t)
		req.extent.seg.writes.Add(1) // not synced any more
	}
	moves[0].extent.seg.bad.Store(true)
	if err := syncAll(moves); !errors.Is(err, errAgain) {
		t.Errorf("syncAll = %v, want %v", err, errAgain)
	}
	if moves[1].extent.seg.dirty() {
		t.Error("the second segment was not synced")
	}
}
