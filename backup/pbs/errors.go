package pbs

import (
	"net/http"

	"github.com/sarsen-build/sarsen/backup/pbs/format"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

func badRequest(format string, args ...any) error {
	return refusal.New(http.StatusBadRequest, format, args...)
}

// statusOf returns the HTTP status code of err. Clients show the text and look at little else. A blob that is not there is
// damage: 404 is for snapshots and their files.
func statusOf(err error) int {
	return refusal.Status(err, refusal.Code{Err: format.ErrFormat, Status: http.StatusBadRequest}, refusal.Code{Err: blob.ErrNotFound, Status: http.StatusInternalServerError})
}
