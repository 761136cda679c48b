package execution

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// ErrNotFound says that there is no such operation, log or worker. After a restart that is so for all that were
// there before. errors.Is(ErrNotFound, blob.ErrNotFound) holds.
var ErrNotFound = fmt.Errorf("%w by the scheduler", blob.ErrNotFound)

// ErrClosed says that the scheduler is shutting down; trying again reaches the next one. It is a blob.ErrClosed.
var ErrClosed = fmt.Errorf("the scheduler is shutting down: %w", blob.ErrClosed)

// ErrBusy says that the scheduler has as many operations as it takes. Trying again later may succeed.
var ErrBusy = errors.New("too many operations are under way; try again later")

// What ends a Session from the scheduler's side.
var (
	// ErrReplaced says that the worker has connected anew.
	ErrReplaced = errors.New("the worker has another connection")
	// ErrLost says that the worker was silent for too long. Its actions may be elsewhere by now; it may register again
	// and say what it runs.
	ErrLost = errors.New("the worker was silent for too long")
	// ErrUnresponsive says that the worker did not stop an action in time, or does not take what it is told. It should
	// connect again, with what it runs.
	ErrUnresponsive = errors.New("the worker did not do in time what it was told")
	// ErrLeft says that the session was ended by its own Leave or Close.
	ErrLeft = errors.New("the session was ended")
)

// missing returns the error of inputs that are not in the store: all that could be found, not only the first.
func missing(blobs ...digest.Digest) error {
	return fmt.Errorf("the action needs %w; upload what it needs and execute again", &blob.MissingError{Blobs: blobs})
}

// ErrInvalid says that a field of an action, a command or a registration makes no sense. It comes in an
// *action.FieldError, which names the field.
var ErrInvalid = blob.ErrInvalid

// invalid returns the error of a field that makes no sense.
func invalid(field, format string, args ...any) error {
	return &action.FieldError{Field: field, Err: fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)}
}

// retried says whether an error that a worker reports is its own, so that another try may do better. CANCELLED
// comes from a worker that stops by itself: what the scheduler cancels, it does not ask about.
func retried(code codes.Code) bool {
	switch code {
	case codes.Unavailable, codes.ResourceExhausted, codes.Internal, codes.Canceled:
		return true
	}
	return false
}
