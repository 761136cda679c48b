package server

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/asset"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
)

// A rig is a Server on loopback with a store behind it and a client in front.
type rig struct {
	t      testing.TB
	ctx    context.Context
	store  *model.Store
	server *Server
	addr   string
	conn   *grpc.ClientConn
	cas    repb.ContentAddressableStorageClient
	bs     bytestream.ByteStreamClient
	ac     repb.ActionCacheClient
	caps   repb.CapabilitiesClient
}

// newRig starts a server. change may alter its options.
func newRig(t testing.TB, change ...func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, store: model.New(time.Hour)}
	o := Options{Store: r.store, Actions: action.New(r.store, r.store), Assets: asset.New(r.store, r.store)}
	for _, c := range change {
		c(&o)
	}
	r.server = New(o)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(l) }()
	var cancel context.CancelFunc
	r.ctx, cancel = context.WithTimeout(context.Background(), time.Minute)
	r.conn = r.dial()
	r.cas, r.bs = repb.NewContentAddressableStorageClient(r.conn), bytestream.NewByteStreamClient(r.conn)
	r.ac, r.caps = repb.NewActionCacheClient(r.conn), repb.NewCapabilitiesClient(r.conn)
	t.Cleanup(func() {
		cancel()
		r.conn.Close()
		stop, done := context.WithTimeout(context.Background(), 10*time.Second)
		defer done()
		r.server.Stop(stop)
		if err := <-served; err != nil {
			t.Errorf("Serve: got %v, want nil", err)
		}
	})
	return r
}

func (r *rig) dial() *grpc.ClientConn {
	conn, err := grpc.NewClient(r.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		r.t.Fatal(err)
	}
	return conn
}

// put stores data behind the server's back.
func (r *rig) put(f digest.Function, data []byte) *repb.Digest {
	r.t.Helper()
	d := f.Of(data)
	if err := blob.Put(r.ctx, r.store, d, data); err != nil {
		r.t.Fatal(err)
	}
	return onWire(d)
}

// holds reports whether the store has the blob.
func (r *rig) holds(d digest.Digest) bool {
	missing, err := r.store.Missing(r.ctx, digest.SetOf(d))
	if err != nil {
		r.t.Fatal(err)
	}
	return missing.Len() == 0
}

// wire returns d as a message.
func onWire(d digest.Digest) *repb.Digest { return &repb.Digest{Hash: d.Hex(), SizeBytes: d.Size} }

func wireOf(data []byte) *repb.Digest { return onWire(digest.SHA256.Of(data)) }

// pattern returns n bytes that differ from place to place and do not compress.
func pattern(n int, seed uint64) []byte {
	data := make([]byte, n)
	x := seed*2654435761 + 1
	for i := range data {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		data[i] = byte(x)
	}
	return data
}

// wantStatus checks err's code and that its message has every one of parts.
func wantStatus(t testing.TB, err error, want codes.Code, parts ...string) {
	t.Helper()
	got := status.Convert(err)
	if got.Code() != want {
		t.Fatalf("got code %v (%q), want %v", got.Code(), got.Message(), want)
	}
	for _, part := range parts {
		if !strings.Contains(got.Message(), part) {
			t.Errorf("got message %q, want %q in it", got.Message(), part)
		}
	}
}

// download reads a resource to its end.
func (r *rig) download(name string, offset, limit int64) ([]byte, error) {
	stream, err := r.bs.Read(r.ctx, &bytestream.ReadRequest{ResourceName: name, ReadOffset: offset, ReadLimit: limit})
	if err != nil {
		return nil, err
	}
	var data []byte
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			return data, nil
		}
		if err != nil {
			return data, err
		}
		data = append(data, m.GetData()...)
	}
}

// upload writes data in messages of step bytes, and checks the answer.
func (r *rig) upload(uuid string, data []byte, step int) {
	r.t.Helper()
	got, err := r.write(resource{upload: uuid, digest: digest.SHA256.Of(data)}.String(), data, step)
	if err != nil || got != int64(len(data)) {
		r.t.Fatalf("upload: got %d, %v, want %d committed", got, err, len(data))
	}
}

// write writes data under a name in messages of step bytes, the last with finish_write.
func (r *rig) write(name string, data []byte, step int) (committed int64, err error) {
	stream, err := r.bs.Write(r.ctx)
	if err != nil {
		return 0, err
	}
	for offset := 0; ; offset += step {
		end := min(offset+step, len(data))
		m := &bytestream.WriteRequest{WriteOffset: int64(offset), Data: data[offset:end], FinishWrite: end == len(data)}
		if offset == 0 {
			m.ResourceName = name
		}
		if err := stream.Send(m); err != nil || m.FinishWrite {
			break // an early answer shows here as EOF
		}
	}
	resp, err := stream.CloseAndRecv()
	return resp.GetCommittedSize(), err
}

// broken writes the first n bytes of data and breaks off, and returns the resource name.
func (r *rig) broken(uuid string, data []byte, n int) string {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.ctx)
	stream, err := r.bs.Write(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	name := resource{upload: uuid, digest: digest.SHA256.Of(data)}.String()
	before, _ := r.server.uploads.kept()
	if err := stream.Send(&bytestream.WriteRequest{ResourceName: name, Data: data[:n]}); err != nil {
		r.t.Fatal(err)
	}
	r.waitFor(name, int64(n))
	cancel()
	r.until("the upload is kept", func() bool {
		after, _ := r.server.uploads.kept()
		return after > before
	})
	return name
}

// waitFor waits until the server says that it has n bytes of an upload.
func (r *rig) waitFor(name string, n int64) {
	r.t.Helper()
	r.until("bytes received", func() bool {
		got, err := r.bs.QueryWriteStatus(r.ctx, &bytestream.QueryWriteStatusRequest{ResourceName: name})
		return err == nil && got.GetCommittedSize() == n
	})
}

// until waits for what another goroutine does.
func (r *rig) until(what string, done func() bool) {
	r.t.Helper()
	for !done() {
		if r.ctx.Err() != nil {
			r.t.Fatalf("gave up waiting: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}
