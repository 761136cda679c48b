package client_test

import (
	"net"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/chunk"
	"github.com/sarsen-build/sarsen/chunk/mapping"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/server"
)

// newSarsen starts the real server on a store in memory, and returns its target.
func newSarsen(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	store := model.New(time.Hour)
	s := server.New(server.Options{Store: store, Actions: action.New(store, store), Chunks: mapping.New(store, store, chunk.Recommended())})
	go s.Serve(l)
	t.Cleanup(func() { s.Stop(t.Context()) })
	return "grpc://" + l.Addr().String()
}
