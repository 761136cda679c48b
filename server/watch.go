package server

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// stall is how long one read from a client, or one write to it, may take. A client that is silent for
// longer, and whose connection lives, holds an unfinished upload's room or a blob that can't be
// removed.
const stall = 5 * time.Minute

var errStalled = status.Errorf(codes.Unavailable, "the client has neither sent nor taken anything for %v; try again", stall)

// watch runs handle with stream, and returns when it ends or its client stalls. To return is the only
// way to end a stream: what handle waits for then fails, so it ends too, though a little later. Stop
// waits for that.
//
// It takes a goroutine, so calls that wait for nothing do without: gRPC takes the first message to a
// client at once, however slow that is.
func (s *Server) watch(stream grpc.ServerStream, handle func(*watchedStream) error) error {
	w := &watchedStream{ServerStream: stream, limit: s.stall, timer: time.NewTimer(s.stall)}
	defer w.timer.Stop()
	done := make(chan error, 1)
	s.handlers.Go(func() { done <- handle(w) })
	select {
	case err := <-done:
		return err
	case <-w.timer.C:
		return errStalled
	}
}

// A watchedStream is a stream whose timer runs while the handler waits for the client.
type watchedStream struct {
	grpc.ServerStream
	limit time.Duration
	timer *time.Timer
}

// RecvMsg implements grpc.ServerStream.
func (w *watchedStream) RecvMsg(m any) error {
	w.timer.Reset(w.limit)
	err := w.ServerStream.RecvMsg(m)
	w.timer.Stop()
	if err != nil {
		return err
	}
	return checkInstance(m)
}

// SendMsg implements grpc.ServerStream.
func (w *watchedStream) SendMsg(m any) error {
	w.timer.Reset(w.limit)
	defer w.timer.Stop()
	return w.ServerStream.SendMsg(m)
}
