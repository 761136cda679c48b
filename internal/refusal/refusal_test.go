package refusal_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

func TestStatus(t *testing.T) {
	strange := errors.New("strange")
	for _, tt := range []struct {
		err  error
		own  []refusal.Code
		want int
	}{
		{refusal.New(418, "no %s", "coffee"), nil, 418},
		{fmt.Errorf("open: %w", blob.ErrUnavailable), nil, 503},
		{&blob.Error{Op: "open", Err: blob.ErrNotFound}, nil, 404},
		{&blob.Error{Op: "open", Err: blob.ErrNotFound}, []refusal.Code{{Err: blob.ErrNotFound, Status: 500}}, 500},
		{&refusal.BodyError{Err: io.ErrUnexpectedEOF}, nil, 400},
		{&refusal.BodyError{Err: os.ErrDeadlineExceeded}, nil, 408},
		{strange, nil, 500},
		{strange, []refusal.Code{{Err: strange, Status: 409}}, 409},
	} {
		if got := refusal.Status(tt.err, tt.own...); got != tt.want {
			t.Errorf("%v: got %d, want %d", tt.err, got, tt.want)
		}
	}
}
