package backup

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/sarsen-build/sarsen/blob"
)

// A refusal is a request that is answered with a code and a text of the front end's own.
type refusal struct {
	code int
	text string
}

func (e *refusal) Error() string { return e.text }

func refuse(code int, format string, args ...any) error {
	return &refusal{code, fmt.Sprintf(format, args...)}
}

// codes translates errors, the first that matches. restic gives up at once after 401, 403 and 404, and tries
// others again for some minutes; rest-server answers in the same way.
var codes = []struct {
	err  error
	code int
}{
	{blob.ErrNotFound, http.StatusNotFound},
	{blob.ErrMismatch, http.StatusBadRequest},
	{blob.ErrInvalid, http.StatusBadRequest},
	{blob.ErrFull, http.StatusInsufficientStorage},
	{blob.ErrTooLarge, http.StatusRequestEntityTooLarge},
	{blob.ErrAborted, http.StatusServiceUnavailable},
	{blob.ErrClosed, http.StatusServiceUnavailable},
	{context.Canceled, http.StatusServiceUnavailable},
	{context.DeadlineExceeded, http.StatusServiceUnavailable},
}

func statusOf(err error) int {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.code
	}
	if _, ok := errors.AsType[*blob.MissingError](err); ok {
		return http.StatusServiceUnavailable // it went while it was uploaded: once more
	}
	if _, ok := errors.AsType[*bodyError](err); ok {
		return http.StatusBadRequest
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return http.StatusInternalServerError
}

// A bodyError is what went wrong while a request's body was read.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "reading the body: " + e.err.Error() }

// Unwrap returns what went wrong.
func (e *bodyError) Unwrap() error { return e.err }
