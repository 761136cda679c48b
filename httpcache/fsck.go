package httpcache

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/sarsen-build/sarsen/internal/refusal"
)

// crossOrigin refuses what a web page of somebody else's makes a browser send.
var crossOrigin http.CrossOriginProtection

// fsck answers POST /fsck with JSON lines, each sent as it comes. One check runs at a time; it ends when
// its client goes.
func (h *handler) fsck(w *response, r *http.Request) error {
	if err := crossOrigin.Check(r); err != nil {
		return refusal.New(http.StatusForbidden, "%v", err)
	}
	if h.Fsck == nil {
		return refusal.New(http.StatusNotFound, "this store can't be checked")
	}
	if !h.checking.CompareAndSwap(false, true) {
		return refusal.New(http.StatusConflict, "a check is running already; wait for its end, or stop the client that asked for it")
	}
	defer h.checking.Store(false)
	h.say(w, r, h.Fsck)
	return nil
}

// collect answers POST /gc in the same way.
func (h *handler) collect(w *response, r *http.Request) error {
	if err := crossOrigin.Check(r); err != nil {
		return refusal.New(http.StatusForbidden, "%v", err)
	}
	if h.Collect == nil {
		return refusal.New(http.StatusNotFound, "there is no bucket behind this store")
	}
	h.say(w, r, func(ctx context.Context, say func(any)) error { return h.Collect(ctx, r.URL.Query(), say) })
	return nil
}

// say answers with what do says, a line of JSON each.
func (h *handler) say(w *response, r *http.Request, do func(context.Context, func(any)) error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	out := json.NewEncoder(w)
	say := func(line any) {
		err := out.Encode(line)
		if err == nil {
			err = w.control.Flush()
		}
		if err != nil {
			cancel(err)
		}
	}
	if err := do(ctx, say); err != nil {
		// The answer has begun as a success, so its last line tells.
		say(struct {
			Error string `json:"error"`
		}{err.Error()})
	}
}
