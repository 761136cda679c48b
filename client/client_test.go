package client_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	bspb "google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/client"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/upstream"
)

func dial(t *testing.T, target, instance string) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), target, instance)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// eachServer runs the test against a server that has everything and one that has little.
func eachServer(t *testing.T, test func(t *testing.T, c *client.Client)) {
	t.Run("bare", func(t *testing.T) {
		_, target := newBareServer(t)
		test(t, dial(t, target, "some/instance"))
	})
	t.Run("sarsen", func(t *testing.T) {
		test(t, dial(t, newSarsen(t), "some/instance"))
	})
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

func put(t *testing.T, c *client.Client, data []byte) digest.Digest {
	t.Helper()
	d := digest.SHA256.Of(data)
	if err := c.Put(t.Context(), d, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	return d
}

func putMessage(t *testing.T, c *client.Client, m proto.Message) *repb.Digest {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	d := put(t, c, data)
	return &repb.Digest{Hash: d.Hex(), SizeBytes: d.Size}
}

func fromProto(t *testing.T, p *repb.Digest) digest.Digest {
	t.Helper()
	d, err := upstream.FromProto(digest.SHA256, p)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestPutThenGet(t *testing.T) {
	eachServer(t, func(t *testing.T, c *client.Client) {
		for _, size := range []int{0, 1, 100, 64 << 10, 64<<10 + 1, 4 << 20, 5<<20 + 7} {
			for _, f := range digest.Functions {
				data := random(size)
				d := f.Of(data)
				missing, err := c.Missing(t.Context(), digest.SetOf(d))
				if err != nil || missing.Has(d) != (size > 0) {
					t.Fatalf("before Put, %v missing: %v, %v", d, missing.Has(d), err)
				}
				if err := c.Put(t.Context(), d, bytes.NewReader(data)); err != nil {
					t.Fatalf("Put %v: %v", d, err)
				}
				// Once more: the server has it by now.
				if err := c.Put(t.Context(), d, bytes.NewReader(data)); err != nil {
					t.Fatalf("Put %v again: %v", d, err)
				}
				missing, err = c.Missing(t.Context(), digest.SetOf(d))
				if err != nil || missing.Len() != 0 {
					t.Fatalf("after Put, missing: %v, %v", missing.List(), err)
				}
				var got bytes.Buffer
				if err := c.Get(t.Context(), d, &got); err != nil || !bytes.Equal(got.Bytes(), data) {
					t.Fatalf("Get %v: %d bytes of %d, %v", d, got.Len(), size, err)
				}
			}
		}
	})
}

func TestMissingKeepsOrderAcrossFunctions(t *testing.T) {
	eachServer(t, func(t *testing.T, c *client.Client) {
		var all, want digest.Set
		for i := range 50 {
			for _, f := range digest.Functions {
				d := f.Of([]byte{byte(i), byte(f)})
				all.Add(d)
				if i%3 > 0 {
					want.Add(d)
					continue
				}
				if err := c.Put(t.Context(), d, bytes.NewReader([]byte{byte(i), byte(f)})); err != nil {
					t.Fatal(err)
				}
			}
		}
		got, err := c.Missing(t.Context(), all)
		if err != nil {
			t.Fatal(err)
		}
		if got.Len() != want.Len() {
			t.Fatalf("%d missing, want %d", got.Len(), want.Len())
		}
		for i, d := range got.List() {
			if d != want.List()[i] {
				t.Fatalf("missing[%d] = %v, want %v", i, d, want.List()[i])
			}
		}
	})
}

func TestWrongBytesAreRefused(t *testing.T) {
	eachServer(t, func(t *testing.T, c *client.Client) {
		for _, size := range []int{10, 5 << 20} {
			data := random(size)
			d := digest.SHA256.Of(data)
			data[0] ^= 1
			if err := c.Put(t.Context(), d, bytes.NewReader(data)); err == nil {
				t.Errorf("Put of %d wrong bytes succeeded", size)
			}
			if err := c.Put(t.Context(), d, bytes.NewReader(data[1:])); !errors.Is(err, blob.ErrMismatch) {
				t.Errorf("Put of %d bytes too few: %v", size, err)
			}
			if err := c.Get(t.Context(), d, new(bytes.Buffer)); !errors.Is(err, blob.ErrNotFound) {
				t.Errorf("Get after it: %v", err)
			}
		}
	})
}

func TestGetVerifies(t *testing.T) {
	server, target := newBareServer(t)
	c := dial(t, target, "")
	small, large := put(t, c, random(100)), put(t, c, random(6<<20))
	server.corrupt.Store(true)
	var got bytes.Buffer
	if err := c.Get(t.Context(), small, &got); !errors.Is(err, blob.ErrMismatch) || got.Len() != 0 {
		t.Errorf("small: %v, %d bytes written", err, got.Len())
	}
	if err := c.Get(t.Context(), large, &got); !errors.Is(err, blob.ErrMismatch) {
		t.Errorf("large: %v", err)
	}
}

// shared is a tree whose directory "a" is there under two names.
func putTree(t *testing.T, c *client.Client, deep bool) (root digest.Digest, file *repb.Digest) {
	t.Helper()
	file = putMessage(t, c, &repb.Digest{Hash: "any bytes", SizeBytes: 1})
	leaf := &repb.Directory{Files: []*repb.FileNode{{Name: "f", Digest: file}}, Symlinks: []*repb.SymlinkNode{{Name: "l", Target: "f"}}}
	a := putMessage(t, c, leaf)
	top := &repb.Directory{
		Files:       []*repb.FileNode{{Name: "g", Digest: file}},
		Directories: []*repb.DirectoryNode{{Name: "a", Digest: a}, {Name: "b", Digest: a}},
	}
	if deep {
		absent := digest.SHA256.Of([]byte("nobody has this directory"))
		top.Directories = append(top.Directories, &repb.DirectoryNode{Name: "c", Digest: &repb.Digest{Hash: absent.Hex(), SizeBytes: absent.Size}})
	}
	return fromProto(t, putMessage(t, c, top)), file
}

func TestTree(t *testing.T) {
	eachServer(t, func(t *testing.T, c *client.Client) {
		for _, deep := range []bool{false, true} {
			root, file := putTree(t, c, deep)
			tree, err := c.Tree(t.Context(), root)
			if err != nil {
				t.Fatal(err)
			}
			want := client.Summary{Directories: 3, Files: 3, Symlinks: 2, Bytes: 3 * file.SizeBytes}
			if deep {
				want.Missing = 1
			}
			if got := tree.Summary(); got != want || len(tree.Directories) != 2 {
				t.Errorf("%+v with %d directories, want %+v with 2", got, len(tree.Directories), want)
			}
		}
		if _, err := c.Tree(t.Context(), digest.SHA256.Of([]byte("no root"))); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("tree without a root: %v", err)
		}
	})
}

// A server may hold anything as a directory. What can't be a digest is an error and no more.
func TestTreeOfMalformedDigests(t *testing.T) {
	eachServer(t, func(t *testing.T, c *client.Client) {
		for _, size := range []int64{-1, -2, -1 << 63} {
			child := &repb.Digest{Hash: digest.SHA256.Of([]byte("child")).Hex(), SizeBytes: size}
			root := fromProto(t, putMessage(t, c, &repb.Directory{Directories: []*repb.DirectoryNode{{Name: "x", Digest: child}}}))
			if got, err := c.Tree(t.Context(), root); err == nil || !strings.Contains(err.Error(), "negative") {
				t.Errorf("a child of size %d: got %v, %v, want an error", size, got, err)
			}
			result := &repb.ActionResult{OutputDirectories: []*repb.OutputDirectory{{TreeDigest: child}}}
			if got, err := c.Closure(t.Context(), digest.SHA256, result); !errors.Is(err, digest.ErrSyntax) {
				t.Errorf("a tree of size %d: got %v, %v, want ErrSyntax", size, got.List(), err)
			}
		}
	})
}

func TestClosure(t *testing.T) {
	_, target := newBareServer(t)
	c := dial(t, target, "")
	one := func(text string) *repb.Digest {
		d := digest.SHA256.Of([]byte(text))
		return &repb.Digest{Hash: d.Hex(), SizeBytes: d.Size}
	}
	root, file := putTree(t, c, true)
	tree := putMessage(t, c, &repb.Tree{
		Root:     &repb.Directory{Files: []*repb.FileNode{{Name: "x", Digest: one("x")}}},
		Children: []*repb.Directory{{Files: []*repb.FileNode{{Name: "y", Digest: one("y")}}}},
	})
	result := &repb.ActionResult{
		OutputFiles:  []*repb.OutputFile{{Path: "o", Digest: one("o")}, {Path: "i", Digest: one("inline"), Contents: []byte("inline")}, {Path: "w", Digest: one("w"), Contents: []byte("wrong")}},
		StdoutDigest: one("out"), StdoutRaw: []byte("out"),
		StderrDigest: one("err"),
		OutputDirectories: []*repb.OutputDirectory{
			{Path: "d", TreeDigest: tree},
			{Path: "e", RootDirectoryDigest: &repb.Digest{Hash: root.Hex(), SizeBytes: root.Size}},
			{Path: "gone", TreeDigest: one("no tree")},
		},
	}
	got, err := c.Closure(t.Context(), digest.SHA256, result)
	if err != nil {
		t.Fatal(err)
	}
	leaf, _ := c.Directory(t.Context(), root)
	want := []*repb.Digest{one("o"), one("w"), one("err"), tree, one("x"), one("y"), file, one("no tree")}
	for _, child := range leaf.Directories {
		want = append(want, child.Digest)
	}
	distinct := digest.SetOf(root)
	for _, p := range want {
		distinct.Add(fromProto(t, p))
		if !got.Has(fromProto(t, p)) {
			t.Errorf("%v is not in the closure", p)
		}
	}
	if got.Len() != distinct.Len() || !got.Has(root) {
		t.Errorf("%d digests, want %d", got.Len(), distinct.Len())
	}
}

func TestResult(t *testing.T) {
	server, target := newBareServer(t)
	action := digest.SHA256.Of([]byte("action"))
	server.results[action.Hex()] = &repb.ActionResult{ExitCode: 7}
	c := dial(t, target, "")
	if got, err := c.Result(t.Context(), action); err != nil || got.ExitCode != 7 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := c.Result(t.Context(), digest.SHA256.Of(nil)); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("an action without a result: %v", err)
	}
}

func TestParseTarget(t *testing.T) {
	for text, want := range map[string]string{
		"grpc://127.0.0.1:8980":  "grpc://127.0.0.1:8980",
		"grpc://127.0.0.1:8980/": "grpc://127.0.0.1:8980",
		"localhost:1":            "grpc://localhost:1",
		":8980":                  "grpc://localhost:8980",
		"grpcs://cache:443":      "grpcs://cache:443",
		"grpc://[::1]:8980":      "grpc://[::1]:8980",
	} {
		if got, err := client.ParseTarget(text); err != nil || got.String() != want {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "cache", "grpc://cache", "http://cache:80", "grpc://cache:80/x", "grpc://cache:"} {
		if got, err := client.ParseTarget(text); err == nil {
			t.Errorf("%q was taken for %v", text, got)
		}
	}
}

// blind is a server that knows SHA-256 only and has nothing.
type blind struct {
	repb.UnimplementedCapabilitiesServer
}

func (blind) GetCapabilities(context.Context, *repb.GetCapabilitiesRequest) (*repb.ServerCapabilities, error) {
	return &repb.ServerCapabilities{CacheCapabilities: &repb.CacheCapabilities{
		DigestFunctions: []repb.DigestFunction_Value{repb.DigestFunction_SHA256},
	}}, nil
}

func TestErrorsSayWhatToDo(t *testing.T) {
	nobody := "grpc://127.0.0.1:1"
	_, err := client.Dial(t.Context(), nobody, "")
	if err == nil || !strings.Contains(err.Error(), nobody) || !strings.Contains(err.Error(), "sarsen up") || strings.Contains(err.Error(), "rpc error") {
		t.Errorf("nobody listens: %v", err)
	}
	c := dial(t, serve(t, func(s *grpc.Server) { repb.RegisterCapabilitiesServer(s, blind{}) }), "")
	err = c.Get(t.Context(), digest.BLAKE3.Of([]byte("x")), new(bytes.Buffer))
	if err == nil || !strings.Contains(err.Error(), "digest function") {
		t.Errorf("BLAKE3 of a server that lacks it: %v", err)
	}
	_, err = c.Missing(t.Context(), digest.SetOf(digest.SHA256.Of([]byte("x"))))
	if err == nil || !strings.Contains(err.Error(), "does not offer") {
		t.Errorf("a call that the server lacks: %v", err)
	}
}

// A hasty server sends a whole blob, and says when it has.
type hasty struct {
	bspb.UnimplementedByteStreamServer
	data []byte
	sent chan struct{}
}

func (h *hasty) Read(_ *bspb.ReadRequest, stream bspb.ByteStream_ReadServer) error {
	defer close(h.sent)
	for data := h.data; len(data) > 0; data = data[1<<20:] {
		if err := stream.Send(&bspb.ReadResponse{Data: data[:1<<20]}); err != nil {
			return err
		}
	}
	return nil
}

// An awaiting writer takes nothing before the channel is closed.
type awaiting struct {
	bytes.Buffer
	begin chan struct{}
}

func (w *awaiting) Write(p []byte) (int, error) {
	<-w.begin
	return w.Buffer.Write(p)
}

// A server may send 15 MiB before the client has taken any of it: on a long line that is what is on
// its way.
func TestWindow(t *testing.T) {
	h := &hasty{data: random(15 << 20), sent: make(chan struct{})}
	c := dial(t, serve(t, func(s *grpc.Server) { bspb.RegisterByteStreamServer(s, h) }), "")
	w := &awaiting{begin: h.sent}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Get(ctx, digest.SHA256.Of(h.data), w); err != nil || !bytes.Equal(w.Bytes(), h.data) {
		t.Errorf("got %d bytes, %v", w.Len(), err)
	}
}
