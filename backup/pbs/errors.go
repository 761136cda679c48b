package pbs

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/sarsen-build/sarsen/backup/pbs/format"
	"github.com/sarsen-build/sarsen/blob"
)

// A refusal is an answer of the protocol's own: a status and a sentence.
type refusal struct {
	code int
	text string
}

func (e *refusal) Error() string { return e.text }

func refuse(code int, format string, args ...any) error {
	return &refusal{code, fmt.Sprintf(format, args...)}
}

func badRequest(format string, args ...any) error {
	return refuse(http.StatusBadRequest, format, args...)
}

// codes translates errors, the first that matches. Clients show the text and look at little else.
var codes = []struct {
	err  error
	code int
}{
	{format.ErrFormat, http.StatusBadRequest},
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
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return http.StatusRequestEntityTooLarge
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return http.StatusInternalServerError
}
