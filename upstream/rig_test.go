package upstream_test

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/server"
	"github.com/sarsen-build/sarsen/upstream"
)

// A rig is a Store over the wire, and the one behind the server.
type rig struct {
	t      testing.TB
	addr   string
	behind *model.Store
	store  *upstream.Store
	calls  *calls
}

// newRig starts the real server on a store in memory.
func newRig(t testing.TB, o upstream.Options) *rig {
	t.Helper()
	r := &rig{t: t, behind: model.New(time.Hour), calls: &calls{n: map[string]int{}}}
	r.addr = serveSarsen(t, r.behind)
	r.store = upstream.New(r.calls.dial(t, r.addr), "an/instance", o)
	return r
}

func serveSarsen(t testing.TB, store interface {
	blob.Batcher
	blob.Records
}) string {
	s := server.New(server.Options{Store: store, Actions: action.New(store, store)})
	l := listen(t)
	go s.Serve(l)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s.Stop(ctx)
	})
	return l.Addr().String()
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// serve starts the services that register names.
func serve(t testing.TB, register func(*grpc.Server)) string {
	l, s := listen(t), grpc.NewServer()
	register(s)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

func dial(t testing.TB, addr string, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// put stores data behind the server's back.
func (r *rig) put(data []byte) digest.Digest {
	r.t.Helper()
	d := digest.SHA256.Of(data)
	if err := blob.Put(r.t.Context(), r.behind, d, data); err != nil {
		r.t.Fatal(err)
	}
	return d
}

func (r *rig) putNew(seed uint64, n int) (digest.Digest, []byte) {
	data := storetest.Bytes(seed, n)
	return r.put(data), data
}
