package main

import (
	"context"
	"errors"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/sarsen-build/sarsen/s3"
)

// collect collects once.
func (h *behind) collect(ctx context.Context, policy s3.Policy) (s3.Report, error) {
	r, err := h.far.Collect(ctx, policy)
	return r, explainCollect(h.config, err)
}

// collectAgain collects when the last collection, of whichever server, is long enough ago.
func (h *behind) collectAgain(ctx context.Context) {
	next := schedule{wait: min(h.config.Collect, time.Minute)}
	for sleep(ctx, next.wait) {
		last, now, err := h.far.Collected(ctx)
		if ago := now.Sub(last); err == nil && ago < h.config.Collect && !next.goesOn {
			next.wait = h.config.Collect - ago
			continue
		}
		var r s3.Report
		if err == nil {
			r, err = h.far.Collect(ctx, s3.Policy{MaxSize: h.config.MaxSize, Patience: 4 * h.config.Heartbeat})
		}
		if ctx.Err() != nil {
			return
		}
		next = h.after(r, err, now)
	}
}

// A schedule is when to collect next.
type schedule struct {
	wait   time.Duration
	goesOn bool // what the last one began, which is thus no reason to wait
}

// again is how soon what came to nothing is tried again. Each try lists the bucket, which costs money.
const again = time.Hour

// after says what a collection did, and when the next one is due.
func (h *behind) after(r s3.Report, err error, now time.Time) schedule {
	soon := min(h.config.Collect, again)
	var ended *s3.BlockedError
	var damaged *s3.DamagedError
	switch {
	case errors.As(err, &ended):
		h.log.Info("the bucket can't be collected yet", "err", err)
		return schedule{max(ended.Until.Sub(now), time.Minute), true}
	case errors.Is(err, s3.ErrBusy):
		h.log.Info("the bucket is not collected by this server now", "err", err)
		return schedule{soon, false} // somebody else may have done it by then
	case errors.As(err, &damaged):
		h.log.Warn("the bucket was collected in part", "deleted", r.Deleted, "err", err)
		return schedule{soon, true}
	case err != nil:
		h.log.Warn("the bucket could not be collected", "err", err)
		return schedule{soon, true}
	}
	h.log.Info("bucket collected", "objects", r.Objects, "size", humanize.Bytes(uint64(r.Bytes)), "deleted", r.Deleted, "refused", r.Refused, "more", r.More)
	// Where all was refused, the next one would be too.
	if r.More && r.Candidates > int64(r.Refused) {
		return schedule{0, true}
	}
	return schedule{h.config.Collect, false}
}
