package segment

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/sarsen-build/sarsen/blob"
)

// Room in the ring is counted in bytes: what the limit leaves beside the segments, and what is left in
// the active one. The last reserve of it is the cleaner's, who needs room to copy into before he can
// give any back.

// measure sets headroom. The limit is --max-size, or what the disk can take if that is less: one
// segment's worth of it stays free for whoever else writes there. The caller holds the turn.
func (r *Ring) measure() {
	used := r.used() + max(0, r.leaseRoom()-r.leases.bytes.Load())
	limit := r.maxSize.Load()
	r.diskFree = limit
	if free, err := r.fsys.Free(r.dir); err == nil {
		r.diskFree = free
		limit = min(limit, used+free-r.segmentSize)
	}
	if !r.quotaAt.IsZero() && time.Since(r.quotaAt) < quotaTime {
		limit = min(limit, r.quota)
	}
	r.limit.Store(limit)
	r.headroom = limit - used
}

// used returns how many bytes count against the ring's limit.
func (r *Ring) used() int64 {
	used := r.leaving.Load() + r.leases.bytes.Load()
	for _, s := range *r.table.Load() {
		used += s.charge()
	}
	return used
}

// reserve is what nobody but the cleaner may take: a victim's worth, and what is lost at the end of a
// segment into which the next record did not fit.
func (r *Ring) reserve() int64 { return r.segmentSize + r.segmentSize/4 }

// quotaTime is for how long a system that gave no room, though it says that there is some, is believed to
// have none: a quota, or a disk that others fill.
const quotaTime = 10 * time.Second

// leaseRoom is what lease logs may take, which is nobody else's.
func (r *Ring) leaseRoom() int64 { return r.segmentSize / 4 }

// goal is how much room the cleaner keeps: his own, and a segment ahead of the writers or what those
// who wait ask for.
func (r *Ring) goal() int64 {
	ahead := r.segmentSize
	for _, b := range r.waiting {
		for _, req := range b.requests {
			if !req.done {
				ahead = max(ahead, need(r, req))
			}
		}
	}
	for _, s := range r.order {
		if n := rescueNeed(s); s.bad.Load() && !s.rescued.Load() && n > ahead && r.mayFit(n) {
			ahead = n
		}
	}
	return r.reserve() + ahead
}

// mayFit reports whether n bytes fit beside what is leased or kept.
func (r *Ring) mayFit(n int64) bool {
	return n+r.held()+r.reserve() <= r.limit.Load()
}

// rescueNeed is what a copy of a big blob's own segment takes. For others there is the reserve.
func rescueNeed(s *segment) int64 {
	if !s.own {
		return 0
	}
	return s.size.Load() + firstSize + trailerSize
}

// tooShort reports whether there is no room to copy what a bad segment holds. The caller holds the turn.
func (r *Ring) tooShort(s *segment) bool { return r.overdraft()+r.activeLeft() < rescueNeed(s) }

func (r *Ring) activeLeft() int64 {
	if r.active == nil {
		return 0
	}
	return r.active.left()
}

func (r *Ring) room() int64 { return r.headroom + r.activeLeft() }

// overdraft is what the cleaner may take. Where the limit was lowered below what is there, or the disk
// filled up, he has a loan: he must copy before he can give something back.
func (r *Ring) overdraft() int64 { return min(r.headroom+r.loan, r.diskFree) }

// need returns the bytes of room that a request takes.
func need(r *Ring, req *request) int64 {
	if span(req.size) > r.segmentSize/4 {
		return span(req.size) + ownOverhead
	}
	return room(req.size)
}

// mayTake reports whether there is room for a request beside what is not for it.
func (r *Ring) mayTake(req *request) bool {
	n := need(r, req)
	if req.by == mover {
		return r.activeLeft() >= n || r.overdraft()+r.activeLeft() >= n+firstSize+trailerSize
	}
	if r.room()-n < r.reserve() {
		return false
	}
	return r.activeLeft() >= n || r.headroom >= n
}

// hopeless returns why no room can come: more than three quarters of the ring is leased or kept, or all but the
// reserve and a segment, or the cleaner went all the way round without gain.
func (r *Ring) hopeless() error {
	if r.gaveIn() {
		return r.fullWhy
	}
	entries, leased := r.ledger.Leased()
	leased += entries * (headerSize + entrySize)
	kept := r.keptBytes()
	if limit := r.limit.Load(); leased+kept > min(limit/4*3, limit-r.reserve()-r.segmentSize) {
		return r.full(fmt.Sprintf("%s of %s hold leased blobs%s", humanize.IBytes(uint64(leased)), humanize.IBytes(uint64(max(limit, 0))), beside(kept)))
	}
	return nil
}

// beside adds to a sentence about leased bytes that there are kept ones, too.
func beside(kept int64) string {
	if kept == 0 {
		return ""
	}
	return ", and " + humanize.IBytes(uint64(kept)) + " kept ones"
}

// held returns the bytes of what is leased or kept.
func (r *Ring) held() int64 {
	_, leased := r.ledger.Leased()
	_, kept := r.ledger.Kept()
	return leased + kept
}

// gaveIn reports whether that still holds. It ends with most pins, too. The caller holds the turn.
func (r *Ring) gaveIn() bool {
	if r.fullUntil <= r.ledger.Now() {
		return false
	}
	if _, _, pins := r.ledger.Counts(); 2*pins < r.fullPins {
		r.fullUntil = 0
	}
	return r.fullUntil != 0
}

// neverFits returns why a request is refused though the cleaner may make room: what is leased must stay.
func (r *Ring) neverFits(req *request) error {
	if n := need(r, req); n+r.held()+r.reserve() > r.limit.Load() {
		_, leased := r.ledger.Leased()
		return r.full(fmt.Sprintf("%s do not fit beside %s of leased blobs%s", humanize.IBytes(uint64(n)), humanize.IBytes(uint64(leased)), beside(r.keptBytes())))
	}
	return nil
}

// full is the error of a ring that can take no more, with the setting to change.
func (r *Ring) full(why string) error {
	r.refused.Add(1)
	if r.limit.Load() < r.maxSize.Load() {
		return fmt.Errorf("%w: %s, and the disk is nearly full; free some of it, or shorten --lease (now %s)", blob.ErrFull, why, r.lease)
	}
	return fmt.Errorf("%w: %s; raise --max-size (now %s) or shorten --lease (now %s)", blob.ErrFull, why, humanize.IBytes(uint64(r.maxSize.Load())), r.lease)
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// SetMaxSize changes the limit, in bytes, at least MinSize. If it is less than what is there, the
// cleaner sees to it.
func (r *Ring) SetMaxSize(n int64) error {
	if err := r.checkSize(n); err != nil {
		return err
	}
	r.turn <- struct{}{}
	defer func() { <-r.turn }()
	r.maxSize.Store(n)
	r.fullUntil = 0
	r.measure()
	r.serveAndWake()
	return nil
}

// checkSize refuses a limit in which a ring of these segments can't work.
func (r *Ring) checkSize(n int64) error {
	if least := minSegments * r.segmentSize; n < least {
		return fmt.Errorf("%w: --max-size %s is less than the smallest ring, %s", blob.ErrInvalid, humanize.IBytes(uint64(max(n, 0))), humanize.IBytes(uint64(least)))
	}
	return nil
}
