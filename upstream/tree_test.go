package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	bspb "google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/upstream"
)

// directory returns a Directory with children and one file whose name makes it another, and its bytes.
func directory(t testing.TB, name string, children ...digest.Digest) (*repb.Directory, []byte) {
	t.Helper()
	d := &repb.Directory{Files: []*repb.FileNode{{Name: name, Digest: upstream.ToProto(digest.SHA256.Of([]byte(name)))}}}
	for i, child := range children {
		d.Directories = append(d.Directories, &repb.DirectoryNode{Name: fmt.Sprint(i), Digest: upstream.ToProto(child)})
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return d, data
}

// unlike returns the same message in other bytes: fields in another order.
func unlike(t testing.TB, d *repb.Directory) []byte {
	t.Helper()
	var all []byte
	for _, part := range []*repb.Directory{{Directories: d.Directories}, {Files: d.Files}} {
		data, err := proto.Marshal(part)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
	}
	return all
}

func TestTree(t *testing.T) {
	for _, without := range []bool{false, true} {
		r := newRig(t, upstream.Options{})
		if without {
			r.calls.fail = func(name string, nth int) error {
				if name == "GetTree" {
					return status.Error(codes.Unimplemented, "no such call")
				}
				return nil
			}
		}
		want := map[digest.Digest]*repb.Directory{}
		leafMessage, leaf := directory(t, "leaf")
		leafDigest := r.put(leaf)
		want[leafDigest] = leafMessage
		level := []digest.Digest{leafDigest}
		// Two directories a level, each with both below: 2 to the power of 30 paths. One has bytes that
		// nobody gets by encoding it again.
		for i := range 30 {
			a, data := directory(t, fmt.Sprint("a", i), level...)
			b, _ := directory(t, fmt.Sprint("b", i), level...)
			level = []digest.Digest{r.put(data), r.put(unlike(t, b))}
			want[level[0]], want[level[1]] = a, b
		}
		top, data := directory(t, "top", level...)
		root := r.put(data)
		want[root] = top
		got, err := r.store.Tree(t.Context(), root)
		if err != nil || len(got) != len(want) {
			t.Fatalf("%d directories, %v, want %d", len(got), err, len(want))
		}
		for d, directory := range want {
			if !proto.Equal(got[d], directory) {
				t.Errorf("%v is %v, want %v", d, got[d], directory)
			}
		}
		if n := r.calls.of("GetTree"); n != 1 {
			t.Errorf("%d calls of GetTree, want 1", n)
		}
		if n := r.calls.of("BatchReadBlobs"); n > 32 {
			t.Errorf("%d batches, want one a level at most", n)
		}
	}
}

func TestTreeMissing(t *testing.T) {
	r := newRig(t, upstream.Options{})
	_, leaf := directory(t, "leaf")
	x, y := digest.SHA256.Of([]byte("x")), digest.SHA256.Of([]byte("y"))
	_, here := directory(t, "here", r.put(leaf), x)
	_, data := directory(t, "top", r.put(here), y)
	root := r.put(data)
	_, err := r.store.Tree(t.Context(), root)
	var missing *blob.MissingError
	if !errors.As(err, &missing) || len(missing.Blobs) != 2 || missing.Blobs[0] == missing.Blobs[1] || !errors.Is(err, blob.ErrNotFound) {
		t.Fatalf("got %v, want x and y missing", err)
	}
	for _, d := range missing.Blobs {
		if d != x && d != y {
			t.Errorf("%v is missing, want %v and %v", d, x, y)
		}
	}
	absent := digest.SHA256.Of([]byte("absent"))
	if _, err := r.store.Tree(t.Context(), absent); !errors.As(err, &missing) || missing.Blobs[0] != absent {
		t.Errorf("without a root: %v", err)
	}
	got, err := r.store.Tree(t.Context(), digest.SHA256.Empty())
	if err != nil || len(got) != 1 || got[digest.SHA256.Empty()] == nil {
		t.Errorf("the empty directory: %v, %v", got, err)
	}
}

// What is no tree is the caller's mistake, and no more than that.
func TestTreeOfNonsense(t *testing.T) {
	r := newRig(t, upstream.Options{})
	negative, err := proto.Marshal(&repb.Directory{Directories: []*repb.DirectoryNode{
		{Name: "x", Digest: &repb.Digest{Hash: digest.SHA256.Of([]byte("x")).Hex(), SizeBytes: -1}}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range [][]byte{[]byte("no directory at all"), negative} {
		if got, err := r.store.Tree(t.Context(), r.put(data)); err == nil || !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%q: got %v, %v, want ErrInvalid", data, got, err)
		}
	}
}

// A liar sends other bytes than the digest's, or answers with other things than were asked for.
type liar struct {
	repb.UnimplementedContentAddressableStorageServer
	bspb.UnimplementedByteStreamServer
	mode string
	data []byte
}

func (l *liar) BatchReadBlobs(_ context.Context, r *repb.BatchReadBlobsRequest) (*repb.BatchReadBlobsResponse, error) {
	answer := new(repb.BatchReadBlobsResponse)
	for _, d := range r.Digests {
		switch l.mode {
		case "silent":
		case "foreign":
			answer.Responses = append(answer.Responses, &repb.BatchReadBlobsResponse_Response{
				Digest: upstream.ToProto(digest.SHA256.Of([]byte("foreign"))), Data: []byte("foreign")})
		default:
			answer.Responses = append(answer.Responses, &repb.BatchReadBlobsResponse_Response{Digest: d, Data: l.data})
		}
	}
	return answer, nil
}

func (l *liar) FindMissingBlobs(context.Context, *repb.FindMissingBlobsRequest) (*repb.FindMissingBlobsResponse, error) {
	return &repb.FindMissingBlobsResponse{MissingBlobDigests: []*repb.Digest{upstream.ToProto(digest.SHA256.Of([]byte("foreign")))}}, nil
}

func (l *liar) Read(r *bspb.ReadRequest, stream bspb.ByteStream_ReadServer) error {
	if l.mode == "stalls" {
		<-stream.Context().Done()
		return stream.Context().Err()
	}
	data := l.data[min(r.ReadOffset, int64(len(l.data))):]
	if r.ReadLimit > 0 {
		data = data[:min(r.ReadLimit, int64(len(data)))]
	}
	for len(data) > 0 {
		n := min(len(data), 100_000)
		if err := stream.Send(&bspb.ReadResponse{Data: data[:n]}); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// GetTree says that there is more, for ever.
func (l *liar) GetTree(_ *repb.GetTreeRequest, stream repb.ContentAddressableStorage_GetTreeServer) error {
	return stream.Send(&repb.GetTreeResponse{NextPageToken: l.mode})
}

// A server whose trees never end is asked for directories one by one.
func TestEndlessTree(t *testing.T) {
	root := []byte("\x0a\x06\x0a\x04file") // a directory with a file
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	got, err := newLiar(t, &liar{mode: "more", data: root}, upstream.Options{}).Tree(ctx, digest.SHA256.Of(root))
	if err != nil || len(got) != 1 {
		t.Errorf("got %v, %v, want the root", got, err)
	}
}

func newLiar(t testing.TB, l *liar, o upstream.Options) *upstream.Store {
	return upstream.New(dial(t, serve(t, func(s *grpc.Server) {
		repb.RegisterContentAddressableStorageServer(s, l)
		bspb.RegisterByteStreamServer(s, l)
	})), "", o)
}

func TestLies(t *testing.T) {
	for _, size := range []int{10, 3 << 20, 10 << 20} {
		good := make([]byte, size)
		d := digest.SHA256.Of(good)
		for mode, data := range map[string][]byte{
			"flipped": append([]byte{1}, good[1:]...),
			"shorter": good[1:],
			"longer":  append([]byte{0}, good...),
			"silent":  good[1:],
			"foreign": append([]byte{1}, good[1:]...),
		} {
			s := newLiar(t, &liar{mode: mode, data: data}, upstream.Options{})
			got, errs := s.GetAll(t.Context(), []digest.Digest{d})
			if !errors.Is(errs[0], blob.ErrCorrupt) || got[0] != nil || errors.Is(errs[0], blob.ErrMismatch) {
				// Ranges end where they were asked to, so a tail that nobody asked for does no harm.
				if mode == "longer" && size == 10<<20 && errs[0] == nil {
					continue
				}
				t.Errorf("%d bytes, %s: GetAll = %d bytes, %v, want ErrCorrupt", size, mode, len(got[0]), errs[0])
			}
			r, err := s.Open(t.Context(), d)
			if err == nil {
				_, err = r.ReadAt(make([]byte, size), 0)
				r.Close()
			}
			if !errors.Is(err, blob.ErrCorrupt) {
				t.Errorf("%d bytes, %s: read through a Reader: %v, want ErrCorrupt", size, mode, err)
			}
		}
	}
	s := newLiar(t, &liar{}, upstream.Options{})
	missing, err := s.Missing(t.Context(), digest.SetOf(digest.SHA256.Of([]byte("x"))))
	if err != nil || missing.Len() != 0 {
		t.Errorf("Missing lists what nobody asked for: %v, %v", missing.List(), err)
	}
}

// A server that goes silent is broken off, and tried again until there is no more patience.
func TestStall(t *testing.T) {
	s := newLiar(t, &liar{mode: "stalls"}, upstream.Options{Stall: 20 * time.Millisecond, Retry: 200 * time.Millisecond})
	_, err := s.Open(t.Context(), digest.SHA256.Of(make([]byte, 3<<20)))
	if status.Code(err) != codes.Unavailable {
		t.Errorf("got %v, want UNAVAILABLE", err)
	}
}

// Write takes a blob and says that it committed less.
func (l *liar) Write(stream bspb.ByteStream_WriteServer) error {
	for {
		if m, err := stream.Recv(); err != nil {
			return err
		} else if m.FinishWrite {
			return stream.SendAndClose(&bspb.WriteResponse{CommittedSize: m.WriteOffset})
		}
	}
}

// Who commits less than the blob has not stored it.
func TestCommittedLess(t *testing.T) {
	s := newLiar(t, &liar{}, upstream.Options{Retry: -1})
	data := make([]byte, 3<<20)
	if err := blob.Put(t.Context(), s, digest.SHA256.Of(data), data); !errors.Is(err, blob.ErrAborted) {
		t.Errorf("got %v, want ErrAborted", err)
	}
}
