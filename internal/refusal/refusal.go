// Package refusal has what front ends that speak HTTP answer when they can't do what was asked: refusals of their own,
// and one table of status codes for what a store says.
package refusal

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

// A Refusal is a request that is answered with a status code and a text of the front end's own.
type Refusal struct {
	Code int
	Text string
}

// Error implements error.
func (e *Refusal) Error() string { return e.Text }

// New returns a refusal.
func New(code int, format string, args ...any) error {
	return &Refusal{code, fmt.Sprintf(format, args...)}
}

// A BodyError is what went wrong while a request's body was read or decoded.
type BodyError struct{ Err error }

// Error implements error.
func (e *BodyError) Error() string { return "reading the body: " + e.Err.Error() }

// Unwrap returns what went wrong.
func (e *BodyError) Unwrap() error { return e.Err }

// A Code is the status code of an error.
type Code struct {
	Err    error
	Status int
}

var codes = []Code{
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
	{blob.ErrChanged, http.StatusServiceUnavailable},
	{context.Canceled, http.StatusServiceUnavailable},
	{context.DeadlineExceeded, http.StatusServiceUnavailable},
	{os.ErrDeadlineExceeded, http.StatusRequestTimeout},
}

// Status returns the status code of err: a refusal's own, that of the first of own which err is, or that of the table.
// A body's error is looked for last, for it may wrap a deadline. What nobody knows is 500.
func Status(err error, own ...Code) int {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Code
	}
	for _, table := range [][]Code{own, codes} {
		for _, c := range table {
			if errors.Is(err, c.Err) {
				return c.Status
			}
		}
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return http.StatusRequestEntityTooLarge
	}
	if _, ok := errors.AsType[*BodyError](err); ok {
		return http.StatusBadRequest
	}
	return http.StatusInternalServerError
}
