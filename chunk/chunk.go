// Package chunk cuts bytes where their content says so, so that two blobs which have a part in common have most
// chunks of it in common: FastCDC of 2020, with the parameters that the Remote Execution API fixes.
//
// The reference is FastCdc2020Params in remote_execution.proto, the test vectors beside it, and the paper
// (Xia et al., The Design of Fast Content-Defined Chunking for Data Deduplication Based Storage Systems, 2020).
//
// # Invariants
//
//   - Where bytes are cut depends on them, the average size and the seed alone: not on how they are read, nor on
//     the machine.
//   - Chunks in their order are the bytes. None is empty, and none is longer than Max.
//
// # Concurrency
//
// A Cutter is never changed, and may be used by many goroutines at once.
package chunk

import (
	"bytes"
	"crypto/md5"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/bits"
)

// The average sizes that the API allows, and the one that it recommends, in bytes.
const (
	MinAverage         = 1 << 10
	MaxAverage         = 8 << 20
	RecommendedAverage = 512 << 10
)

// ErrParameters says that the parameters are none that the API allows.
var ErrParameters = errors.New("not the parameters of FastCDC 2020")

// normalization is by how many bits a cut is less likely before the average size, and more likely after it.
const normalization = 2

// masks are those of the algorithm's reference implementation in C and what became usual for the larger sizes:
// the nth has n+firstMask bits that must all be zero at a cut.
var masks = [...]uint64{
	0x0000001800035300, 0x0000019000353000, 0x0000590003530000, 0x0000d90003530000, 0x0000d90103530000, 0x0000d90303530000,
	0x0000d90313530000, 0x0000d90f03530000, 0x0000d90303537000, 0x0000d90703537000, 0x0000d90707537000, 0x0000d91707537000,
	0x0000d91747537000, 0x0000d91767537000, 0x0000d93767537000, 0x0000d93777537000, 0x0000d93777577000, 0x0000db3777577000,
}

const firstMask = 8

// A Cutter finds the cuts of one set of parameters.
type Cutter struct {
	min, average, max int // bytes
	seed              uint32
	small, large      uint64 // the masks before and after the average size
	gear, twice       [256]uint64
}

// New returns the Cutter whose chunks have about average bytes, a power of two. Its chunks have at least a quarter of
// that, but for the last of a blob, and at most four times as many. It returns ErrParameters for another average.
func New(average int, seed uint32) (*Cutter, error) {
	if average < MinAverage || average > MaxAverage || average&(average-1) != 0 {
		return nil, fmt.Errorf("%w: an average of %d bytes; it is a power of two from %d to %d", ErrParameters, average, MinAverage, MaxAverage)
	}
	return newCutter(average/4, average, average*4, seed), nil
}

// Recommended returns the Cutter of the parameters that the API recommends.
func Recommended() *Cutter {
	return newCutter(RecommendedAverage/4, RecommendedAverage, RecommendedAverage*4, 0)
}

// newCutter takes any maximum, as the test vectors have one of their own.
func newCutter(least, average, most int, seed uint32) *Cutter {
	n := bits.Len(uint(average)) - 1 - firstMask
	c := &Cutter{min: least, average: average, max: most, seed: seed, small: masks[n+normalization], large: masks[n-normalization]}
	for i := range c.gear {
		// Of the byte 64 times: the proto's text says MD5(byte(i)), but its vectors come from this.
		sum := md5.Sum(bytes.Repeat([]byte{byte(i)}, 64))
		c.gear[i] = binary.BigEndian.Uint64(sum[:]) ^ uint64(seed)
		c.twice[i] = c.gear[i] << 1
	}
	return c
}

// Average returns the parameter of New, in bytes.
func (c *Cutter) Average() int { return c.average }

// Seed returns the parameter of New.
func (c *Cutter) Seed() uint32 { return c.seed }

// Max returns the most bytes that a chunk has.
func (c *Cutter) Max() int { return c.max }

// Cut returns how many bytes the first chunk of data has. data is all that is left of the blob, or at least its next
// Max bytes.
func (c *Cutter) Cut(data []byte) int {
	n, _ := c.cut(data)
	return n
}

// cut returns the rolling hash at the cut too, which the test vectors have.
//
// The hash takes a byte by a shift and an addition. Two bytes go in at a time, so that one shift does for both: what
// the first of them leaves is compared shifted by one. A byte that makes a cut belongs to the next chunk.
func (c *Cutter) cut(data []byte) (n int, hash uint64) {
	if len(data) <= c.min {
		return len(data), 0
	}
	data = data[:min(len(data), c.max)]
	normal := min(c.average, len(data)) &^ 1
	n, hash, ok := c.scan(data[:normal], c.min&^1, 0, c.small)
	if !ok {
		n, hash, ok = c.scan(data[:len(data)&^1], n, hash, c.large)
	}
	if !ok {
		return len(data), hash
	}
	return n, hash
}

// scan looks for a cut from data[at] on. data has an even number of bytes, and at is even.
func (c *Cutter) scan(data []byte, at int, hash, mask uint64) (n int, sum uint64, ok bool) {
	shifted := mask << 1
	for ; at+1 < len(data); at += 2 {
		pair := data[at : at+2 : at+2]
		hash <<= 2
		first := c.twice[pair[0]]
		// Both sums begin at the shift, so that the second does not wait for the first.
		one, two := hash+first, hash+(first+c.gear[pair[1]])
		if one&shifted == 0 {
			return at, one, true
		}
		if two&mask == 0 {
			return at + 1, two, true
		}
		hash = two
	}
	return at, hash, false
}

// Chunks yields the chunks of r in their order, each until the next is asked for. It ends with the first error of r,
// or without one at its end. It holds at most twice Max bytes.
func (c *Cutter) Chunks(r io.Reader) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		buffer := make([]byte, 2*c.max)
		from, to, ended := 0, 0, false
		for {
			if to-from < c.max && !ended {
				copy(buffer, buffer[from:to])
				from, to = 0, to-from
				n, err := io.ReadFull(r, buffer[to:])
				to += n
				ended = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
				if err != nil && !ended {
					yield(nil, err)
					return
				}
			}
			if from == to {
				return
			}
			n := c.Cut(buffer[from:to])
			if !yield(buffer[from:from+n:from+n], nil) {
				return
			}
			from += n
		}
	}
}
