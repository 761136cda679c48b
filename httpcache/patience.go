package httpcache

import (
	"context"
	"errors"
	"time"
)

// errSlow says that the store took longer than a client of the dialect should wait.
var errSlow = errors.New("the store did not answer in time")

// maxCalls is how many calls of the store run at once for all dialects. On a disk that hangs they are all that
// waits for it; whoever comes then is told after his patience that the store is slow.
const maxCalls = 512

// await calls do, which calls the store, and gives up on it after d: a disk may hang, and a build must not hang
// with it. What do returns after that goes to drop. do's context ends with the wait.
func await[T any](ctx context.Context, h *handler, d time.Duration, do func(context.Context) (T, error), drop func(T)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	var none T
	ctx, cancel := context.WithTimeoutCause(ctx, d/h.hurry, errSlow)
	defer cancel()
	select {
	case h.calls <- struct{}{}:
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
	done, left := make(chan outcome), make(chan struct{})
	defer close(left)
	go func() {
		defer func() { <-h.calls }()
		v, err := do(ctx)
		select {
		case done <- outcome{v, err}:
		case <-left:
			if err == nil {
				drop(v)
			}
		}
	}()
	select {
	case o := <-done:
		if o.err != nil && ctx.Err() != nil {
			o.err = context.Cause(ctx)
		}
		return o.value, o.err
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
}
