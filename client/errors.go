package client

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sarsen-build/sarsen/blob"
)

// An Error is what a server answered, or that it did not. errors.Is finds blob.ErrNotFound in it, and
// blob.ErrMismatch for bytes that are not the digest's; status.Code finds the server's code.
type Error struct {
	Server string // as ParseTarget reads it
	Op     string // what was asked: a verb and a digest
	Err    error  // a gRPC status, or what was wrong with the answer
}

func (e *Error) Error() string {
	s, ok := status.FromError(e.Err)
	if !ok {
		return fmt.Sprintf("%s: %s: %v", e.Server, e.Op, e.Err)
	}
	switch s.Code() {
	case codes.NotFound:
		return fmt.Sprintf("%s: %s: not found", e.Server, e.Op)
	case codes.Unavailable:
		return fmt.Sprintf("%s does not answer (%s); %s", e.Server, cause(s.Message()), remedy(s.Message()))
	case codes.DeadlineExceeded:
		return fmt.Sprintf("%s: %s: no answer in time; see whether the server is busy or --server names something else", e.Server, e.Op)
	case codes.Unimplemented:
		return fmt.Sprintf("%s: %s: the server does not offer this call", e.Server, e.Op)
	}
	if s.Message() == "" {
		return fmt.Sprintf("%s: %s: %s", e.Server, e.Op, s.Code())
	}
	return fmt.Sprintf("%s: %s: %s", e.Server, e.Op, s.Message())
}

// Unwrap returns what the server said.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether the server's code stands for target, one of package blob's errors.
func (e *Error) Is(target error) bool {
	return target == blob.ErrNotFound && status.Code(e.Err) == codes.NotFound
}

// fail returns err as the answer to op, or nil.
func (c *Client) fail(op string, err error) error {
	var own *Error
	if err == nil || errors.As(err, &own) {
		return err
	}
	return &Error{c.target.String(), op, err}
}

// cause takes the reason out of grpc-go's description of a connection that failed, which wraps it in
// several layers of its own.
func cause(message string) string {
	if i := strings.LastIndex(message, ": "); i >= 0 {
		message = message[i+2:]
	}
	return strings.Trim(message, `"`)
}

// remedy says what to do about a connection that failed, by what grpc-go and crypto/tls say of it.
func remedy(message string) string {
	switch {
	case strings.Contains(message, "looked like an HTTP/1.1 header"):
		return "that port speaks HTTP, give the server's gRPC port with --server"
	case strings.Contains(message, "does not look like a TLS handshake"):
		return "it speaks no TLS, use grpc:// with --server"
	case strings.Contains(message, "error reading server preface"):
		return "if it speaks TLS, use grpcs:// with --server"
	}
	return "start a server with 'sarsen up' or name another with --server"
}

// lacks reports whether a server said that it has no such call, in one of the ways that are seen.
func lacks(err error) bool { return status.Code(err) == codes.Unimplemented }
