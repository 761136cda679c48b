package httpcache

import (
	"io"
	"net/http"

	"github.com/sarsen-build/sarsen/internal/refusal"
)

// backup lets the handler of backups answer. Its reads and writes are counted and bounded like all others.
func (h *handler) backup(w *response, r *http.Request) error {
	if h.Backup == nil {
		return refusal.New(http.StatusNotFound, routes)
	}
	if err := crossOrigin.Check(r); err != nil {
		return refusal.New(http.StatusForbidden, "%v", err)
	}
	inner := *r
	inner.Body = struct {
		io.Reader
		io.Closer
	}{w.body, r.Body}
	h.Backup.ServeHTTP(w, &inner)
	return nil
}
