package backup

import (
	"errors"
	"net/http"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

// statusOf returns the HTTP status code of err. restic gives up at once after 401, 403 and 404, and tries others again for
// some minutes; rest-server answers in the same way.
func statusOf(err error) int {
	if _, ok := errors.AsType[*blob.MissingError](err); ok {
		return http.StatusServiceUnavailable // it went while it was uploaded: once more
	}
	return refusal.Status(err)
}
