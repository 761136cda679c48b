package httpcache

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"syscall"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// statusClientGone is nginx's code for a request whose client left. Only the metrics and the log see it.
const statusClientGone = 499

// A refusal is a request that is answered with a code and a text of the front end's own.
type refusal struct {
	code int
	text string
}

func (e *refusal) Error() string { return e.text }

func refuse(code int, format string, args ...any) error {
	return &refusal{code, fmt.Sprintf(format, args...)}
}

// A bodyError is what went wrong while a request's body was read or decoded.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "reading the body: " + e.err.Error() }

// Unwrap returns what went wrong.
func (e *bodyError) Unwrap() error { return e.err }

// codes translates errors, the first that matches. A bodyError may wrap a deadline,
// so it comes last.
var codes = []struct {
	err  error
	code int
}{
	{blob.ErrNotFound, http.StatusNotFound},
	{blob.ErrMismatch, http.StatusBadRequest},
	{blob.ErrInvalid, http.StatusBadRequest},
	{digest.ErrSyntax, http.StatusBadRequest},
	{blob.ErrFull, http.StatusInsufficientStorage},
	{syscall.ENOSPC, http.StatusInsufficientStorage},
	{blob.ErrTooLarge, http.StatusRequestEntityTooLarge},
	{blob.ErrAborted, http.StatusServiceUnavailable},
	{blob.ErrClosed, http.StatusServiceUnavailable},
	{blob.ErrUnavailable, http.StatusServiceUnavailable},
	{errSlow, http.StatusServiceUnavailable},
	{blob.ErrCorrupt, http.StatusInternalServerError},
	{context.Canceled, statusClientGone},
	{context.DeadlineExceeded, http.StatusServiceUnavailable},
	{os.ErrDeadlineExceeded, http.StatusRequestTimeout},
}

// statusOf returns the HTTP status code of err.
func statusOf(err error) int {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.code
	}
	if _, ok := errors.AsType[*blob.MissingError](err); ok {
		return http.StatusPreconditionFailed
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	if _, ok := errors.AsType[*bodyError](err); ok {
		return http.StatusBadRequest
	}
	return http.StatusInternalServerError
}
