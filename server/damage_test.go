package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/segment"
)

// newRing returns a rig over a small ring on files in memory.
func newRing(t *testing.T) (*rig, *segment.Ring, *vfs.Mem) {
	t.Helper()
	files := new(vfs.Mem)
	ring, err := segment.Open(t.Context(), files, "ring", segment.Options{MaxSize: segment.MinSize, Lease: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	// Cleanups run in reverse order: the server stops first.
	t.Cleanup(func() {
		if err := ring.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	r := newRig(t, func(o *Options) { o.Store, o.Actions = ring, action.New(ring, ring) })
	return r, ring, files
}

// flip turns over a bit in the middle of data, wherever a segment has it.
func flip(t *testing.T, files *vfs.Mem, data []byte) {
	t.Helper()
	infos, err := files.List("ring")
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range infos {
		f, err := files.Open("ring/" + info.Name)
		if err != nil {
			t.Fatal(err)
		}
		all := make([]byte, info.Size)
		if _, err := f.ReadAt(all, 0); err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(all, data); at >= 0 {
			at += len(data) / 2
			if _, err := f.WriteAt([]byte{all[at] ^ 1}, int64(at)); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("no file has the %d bytes", len(data))
}

// TestDamagedBlob reads a blob whose bytes have rotted, in every way there is: it is DATA_LOSS once, then
// the blob is missing, and an upload brings it back.
func TestDamagedBlob(t *testing.T) {
	for _, size := range []int{2000, 3_000_000} {
		for name, read := range map[string]func(r *rig, d *repb.Digest) ([]byte, error){
			"BatchReadBlobs": func(r *rig, d *repb.Digest) ([]byte, error) {
				resp, err := r.cas.BatchReadBlobs(r.ctx, &repb.BatchReadBlobsRequest{Digests: []*repb.Digest{d}})
				if err != nil {
					return nil, err
				}
				got := resp.GetResponses()[0]
				return got.GetData(), status.ErrorProto(got.GetStatus())
			},
			"ByteStream.Read": func(r *rig, d *repb.Digest) ([]byte, error) {
				return r.download(fmt.Sprintf("blobs/%s/%d", d.Hash, d.SizeBytes), 0, 0)
			},
			"ByteStream.Read, zstd": func(r *rig, d *repb.Digest) ([]byte, error) {
				return r.download(fmt.Sprintf("compressed-blobs/zstd/%s/%d", d.Hash, d.SizeBytes), 0, 0)
			},
		} {
			t.Run(fmt.Sprintf("%s %d", name, size), func(t *testing.T) {
				r, _, files := newRing(t)
				data := pattern(size, 1)
				d := wireOf(data)
				r.upload("u1", data, 1<<20)
				flip(t, files, data)
				got, err := read(r, d)
				wantStatus(t, err, codes.DataLoss, "stored bytes are corrupt")
				if name == "ByteStream.Read" && !bytes.HasPrefix(data, got) {
					t.Errorf("got %d wrong bytes", len(got))
				}
				_, err = read(r, d)
				wantStatus(t, err, codes.NotFound)
				missing, err := r.cas.FindMissingBlobs(r.ctx, &repb.FindMissingBlobsRequest{BlobDigests: []*repb.Digest{d}})
				if err != nil || len(missing.GetMissingBlobDigests()) != 1 {
					t.Fatalf("FindMissingBlobs: got %v, %v, want the damaged blob", missing, err)
				}
				r.upload("u2", data, 1<<20)
				if got, err := r.download(fmt.Sprintf("blobs/%s/%d", d.Hash, d.SizeBytes), 0, 0); err != nil || !bytes.Equal(got, data) {
					t.Errorf("after the upload: got %d bytes, %v", len(got), err)
				}
			})
		}
	}
}

// TestDamagedTree asks for a result of which a part that has to be read is damaged: it is absent, and the
// next update of it is told which blob to bring.
func TestDamagedTree(t *testing.T) {
	file := []byte("a file in a tree")
	root := &repb.Directory{Files: []*repb.FileNode{{Name: "a file with a name that is long enough to be found", Digest: wireOf(file)}}}
	for name, m := range map[string]proto.Message{"tree": &repb.Tree{Root: root}, "root": root} {
		t.Run(name, func(t *testing.T) {
			r, ring, files := newRing(t)
			message, err := proto.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			for _, data := range [][]byte{file, message} {
				if err := blob.Put(r.ctx, ring, digest.SHA256.Of(data), data); err != nil {
					t.Fatal(err)
				}
			}
			dir := &repb.OutputDirectory{Path: "out", TreeDigest: wireOf(message)}
			if name == "root" {
				dir = &repb.OutputDirectory{Path: "out", RootDirectoryDigest: wireOf(message)}
			}
			update := &repb.UpdateActionResultRequest{ActionDigest: wireOf([]byte("action")), ActionResult: &repb.ActionResult{OutputDirectories: []*repb.OutputDirectory{dir}}}
			if _, err := r.ac.UpdateActionResult(r.ctx, update); err != nil {
				t.Fatal(err)
			}
			flip(t, files, message)
			get := &repb.GetActionResultRequest{ActionDigest: update.ActionDigest}
			for range 2 {
				_, err = r.ac.GetActionResult(r.ctx, get)
				wantStatus(t, err, codes.NotFound)
			}
			_, err = r.ac.UpdateActionResult(r.ctx, update)
			wantStatus(t, err, codes.FailedPrecondition, wireOf(message).Hash)
			r.upload("u1", message, 1<<20)
			if _, err := r.ac.UpdateActionResult(r.ctx, update); err != nil {
				t.Errorf("after the upload: %v", err)
			}
			if _, err := r.ac.GetActionResult(r.ctx, get); err != nil {
				t.Errorf("after the upload: %v", err)
			}
		})
	}
}

// TestDamagedResult asks for a result that is damaged itself.
func TestDamagedResult(t *testing.T) {
	r, _, files := newRing(t)
	update := &repb.UpdateActionResultRequest{ActionDigest: wireOf([]byte("action")), ActionResult: &repb.ActionResult{
		ExecutionMetadata: &repb.ExecutedActionMetadata{Worker: "a worker with a name that is long enough to be found"},
	}}
	if _, err := r.ac.UpdateActionResult(r.ctx, update); err != nil {
		t.Fatal(err)
	}
	flip(t, files, []byte(update.ActionResult.ExecutionMetadata.Worker))
	for range 2 {
		_, err := r.ac.GetActionResult(r.ctx, &repb.GetActionResultRequest{ActionDigest: update.ActionDigest})
		wantStatus(t, err, codes.NotFound)
	}
	if _, err := r.ac.UpdateActionResult(r.ctx, update); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ac.GetActionResult(r.ctx, &repb.GetActionResultRequest{ActionDigest: update.ActionDigest}); err != nil {
		t.Errorf("after the update: %v", err)
	}
}

// TestDamagedInline asks for a result with bytes inlined that turn out to be damaged.
func TestDamagedInline(t *testing.T) {
	r, ring, files := newRing(t)
	out := pattern(2000, 1)
	if err := blob.Put(r.ctx, ring, digest.SHA256.Of(out), out); err != nil {
		t.Fatal(err)
	}
	update := &repb.UpdateActionResultRequest{ActionDigest: wireOf([]byte("action")), ActionResult: &repb.ActionResult{StdoutDigest: wireOf(out)}}
	if _, err := r.ac.UpdateActionResult(r.ctx, update); err != nil {
		t.Fatal(err)
	}
	flip(t, files, out)
	for range 2 {
		_, err := r.ac.GetActionResult(r.ctx, &repb.GetActionResultRequest{ActionDigest: update.ActionDigest, InlineStdout: true})
		wantStatus(t, err, codes.NotFound, wireOf(out).Hash)
	}
}

// TestFullRing writes to a ring of which everything is leased, in every way there is. Each answer says
// which setting to change, and reads go on.
func TestFullRing(t *testing.T) {
	r, ring, _ := newRing(t)
	first := pattern(900_000, 1)
	err := error(nil)
	for seed := uint64(1); err == nil; seed++ {
		data := pattern(900_000, seed)
		err = blob.Put(context.Background(), ring, digest.SHA256.Of(data), data)
	}
	if !errors.Is(err, blob.ErrFull) {
		t.Fatalf("filling the ring: got %v, want ErrFull", err)
	}
	fresh := func(size int) []byte { return pattern(size, 1_000_000+uint64(size)) }
	for name, write := range map[string]func() error{
		"BatchUpdateBlobs": func() error {
			data := fresh(700_001)
			resp, err := r.cas.BatchUpdateBlobs(r.ctx, &repb.BatchUpdateBlobsRequest{Requests: []*repb.BatchUpdateBlobsRequest_Request{{Digest: wireOf(data), Data: data}}})
			if err != nil {
				return err
			}
			return status.ErrorProto(resp.GetResponses()[0].GetStatus())
		},
		"ByteStream.Write": func() error {
			data := fresh(700_002)
			_, err := r.write(resource{upload: "u1", digest: digest.SHA256.Of(data)}.String(), data, 1<<20)
			return err
		},
		"ByteStream.Write, resumable": func() error {
			data := fresh(700_003)
			_, err := r.write(resource{upload: "u2", digest: digest.SHA256.Of(data)}.String(), data, 1<<18)
			return err
		},
		"UpdateActionResult": func() error {
			_, err := r.ac.UpdateActionResult(r.ctx, &repb.UpdateActionResultRequest{ActionDigest: wireOf([]byte("action")), ActionResult: &repb.ActionResult{StdoutRaw: fresh(700_004)}})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			wantStatus(t, write(), codes.ResourceExhausted, "raise --max-size", "shorten --lease")
		})
	}
	got, err := r.download("blobs/"+digest.SHA256.Of(first).String(), 0, 0)
	if err != nil || !bytes.Equal(got, first) {
		t.Errorf("reading from the full ring: got %d bytes, %v", len(got), err)
	}
}
