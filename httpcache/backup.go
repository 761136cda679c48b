package httpcache

import (
	"io"
	"net/http"
)

// backup lets the handler of backups answer. Its reads and writes are counted and bounded like all others.
func (h *handler) backup(w *response, r *http.Request) error {
	if h.Backup == nil {
		return refuse(http.StatusNotFound, routes)
	}
	if err := crossOrigin.Check(r); err != nil {
		return refuse(http.StatusForbidden, "%v", err)
	}
	inner := *r
	inner.Body = struct {
		io.Reader
		io.Closer
	}{w.body, r.Body}
	h.Backup.ServeHTTP(w, &inner)
	return nil
}
