package segment

import (
	"slices"
	"testing"

	"github.com/sarsen-build/sarsen/internal/storetest"
)

// TestSums: a record that is streamed in pieces has the checksums of one that is written whole, whatever
// is left for its last block.
func TestSums(t *testing.T) {
	f := first{generation: 3, seed: 42}
	for _, n := range append([]int{blockSize - 1, blockSize, blockSize + 1, 3*blockSize + 7, 2*blockSize + 250}, sequence(600)...) {
		data := storetest.Bytes(uint64(n), n)
		want := decodeSums(f.appendSumsOf(nil, data, 4096))
		for _, piece := range []int{1000, 70000} {
			u := f.newSummer(4096)
			for p := range slices.Chunk(data, piece) {
				u.write(p)
			}
			if got := u.close(); !slices.Equal(got, want) {
				t.Errorf("%d bytes in pieces of %d: %x, want %x", n, piece, got, want)
			}
		}
	}
	data := storetest.Bytes(1, 5000)
	at := f.sum(data, 64)
	if f.sum(data, 72) == at || (first{generation: 4, seed: 42}).sum(data, 64) == at || (first{generation: 3, seed: 43}).sum(data, 64) == at {
		t.Error("a checksum holds at another offset, in another segment, or with another seed")
	}
}

// sequence returns the numbers from 0 to n-1.
func sequence(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}
