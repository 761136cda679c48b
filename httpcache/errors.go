package httpcache

import (
	"context"
	"errors"
	"net/http"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

// statusClientGone is nginx's code for a request whose client left. Only the metrics and the log see it.
const statusClientGone = 499

// statusOf returns the HTTP status code of err.
func statusOf(err error) int {
	if _, ok := errors.AsType[*blob.MissingError](err); ok {
		return http.StatusPreconditionFailed
	}
	return refusal.Status(err, refusal.Code{Err: errSlow, Status: http.StatusServiceUnavailable}, refusal.Code{Err: context.Canceled, Status: statusClientGone})
}
