package compiler

import (
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/segment"
	"github.com/sarsen-build/sarsen/upstream"
)

// TestInlined: bytes that a server sends along with a result are taken if they are those that it names; what it leaves
// out is fetched.
func TestInlined(t *testing.T) {
	object, message, other := []byte("object"), []byte("warning"), []byte("another")
	for _, c := range []struct {
		name           string
		inline, stderr []byte
		has            [][]byte // by the server's store
		want           bool
	}{
		{"all inlined", object, message, nil, true},
		{"nothing inlined", nil, nil, [][]byte{object, message}, true},
		{"one inlined", object, nil, [][]byte{message}, true},
		{"others than those named", other, message, [][]byte{object}, false},
		{"nowhere", nil, message, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			ring, err := segment.Open(t.Context(), vfs.OS{}, t.TempDir(), segment.Options{MaxSize: segment.MinSize, Lease: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			defer ring.Close()
			far := model.New(time.Hour)
			for _, b := range c.has {
				if err := far.PutAll(t.Context(), []digest.Digest{digest.SHA256.Of(b)}, [][]byte{b})[0]; err != nil {
					t.Fatal(err)
				}
			}
			s := newEntries(ring, &remote{blobs: far, count: func(string) {}})
			r := &repb.ActionResult{
				OutputFiles:  []*repb.OutputFile{{Path: "object", Digest: upstream.ToProto(digest.SHA256.Of(object)), Contents: c.inline}},
				StderrDigest: upstream.ToProto(digest.SHA256.Of(message)), StderrRaw: c.stderr,
			}
			err = s.fetch(t.Context(), r, maxOutput)
			if (err == nil) != c.want {
				t.Errorf("got %v, want success: %v", err, c.want)
			}
			if len(r.OutputFiles[0].Contents) > 0 || len(r.StderrRaw) > 0 {
				t.Errorf("got a result with %q and %q in it, want neither", r.OutputFiles[0].Contents, r.StderrRaw)
			}
			if e, err := s.read(t.Context(), r); (err == nil) != c.want || c.want && string(e.outputs[0].data)+string(e.stderr) != "objectwarning" {
				t.Errorf("got %v, %v, want an entry: %v", e, err, c.want)
			}
		})
	}
}
