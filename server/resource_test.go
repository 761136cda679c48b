package server

import (
	"strings"
	"testing"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc/codes"

	"github.com/sarsen-build/sarsen/digest"
)

const (
	hash1 = "936a185caaa266bb9cbe981e9e05cb78cd732b0b3280eb944412bb6f8f8f07af"
	empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

func TestResourceNames(t *testing.T) {
	sha, blake := "sha256", "blake3"
	for _, tt := range []struct {
		name       string
		write      bool
		instance   string
		upload     string
		function   string
		compressed bool
		size       int64
		metadata   string
	}{
		{name: "blobs/" + hash1 + "/11", function: sha, size: 11},
		{name: "i/blobs/" + hash1 + "/11", instance: "i", function: sha, size: 11},
		{name: "a/b/c/blobs/" + hash1 + "/11", instance: "a/b/c", function: sha, size: 11},
		{name: "blobs/blake3/" + hash1 + "/11", function: blake, size: 11},
		{name: "blobs/" + empty + "/0", function: sha},
		{name: "i/compressed-blobs/zstd/" + hash1 + "/11", instance: "i", function: sha, compressed: true, size: 11},
		{name: "compressed-blobs/zstd/blake3/" + hash1 + "/11", function: blake, compressed: true, size: 11},
		{name: "blobs/" + hash1 + "/9223372036854775807", function: sha, size: 1<<63 - 1},
		{name: "uploads/u/blobs/" + hash1 + "/11", write: true, upload: "u", function: sha, size: 11},
		{name: "a/b/uploads/u/blobs/" + hash1 + "/11", write: true, instance: "a/b", upload: "u", function: sha, size: 11},
		{name: "uploads/u/blobs/blake3/" + hash1 + "/11", write: true, upload: "u", function: blake, size: 11},
		{name: "uploads/u/blobs/" + hash1 + "/11/some/path.txt", write: true, upload: "u", function: sha, size: 11, metadata: "some/path.txt"},
		{name: "uploads/u/blobs/" + hash1 + "/11/blobs/uploads", write: true, upload: "u", function: sha, size: 11, metadata: "blobs/uploads"},
		{name: "i/uploads/u/compressed-blobs/zstd/blake3/" + hash1 + "/11/m", write: true, instance: "i", upload: "u", function: blake, compressed: true, size: 11, metadata: "m"},
	} {
		parse := parseRead
		if tt.write {
			parse = parseWrite
		}
		got, err := parse(tt.name)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		f, _ := digest.FunctionNamed(tt.function)
		want := resource{instance: tt.instance, upload: tt.upload, compressed: tt.compressed, metadata: tt.metadata, digest: got.digest}
		if got != want || got.digest.Function != f || got.digest.Size != tt.size {
			t.Errorf("%s: got %+v, want %+v of %s and %d bytes", tt.name, got, want, f, tt.size)
		}
		if got.String() != tt.name {
			t.Errorf("String: got %s, want %s", got, tt.name)
		}
	}
}

func TestResourceNameErrors(t *testing.T) {
	for _, tt := range []struct{ name, want string }{
		{"", "no \"blobs\""},
		{"blobs", "size \"\""},
		{"i/" + hash1 + "/11", "no \"blobs\""},
		{"blobs/" + hash1, "size \"\""},
		{"blobs/" + hash1 + "/", "size \"\""},
		{"blobs/" + hash1 + "/x", "size \"x\""},
		{"blobs/" + hash1 + "/-1", "size \"-1\""},
		{"blobs/" + hash1 + "/+1", "size \"+1\""},
		{"blobs/" + hash1 + "/9223372036854775808", "not a number of bytes"},
		{"blobs/" + hash1 + "/0", "size 0"},
		{"blobs/" + empty + "/1", "size 1"},
		{"blobs/" + hash1 + "/11/more", "unexpected \"more\""},
		{"blobs/" + hash1[1:] + "/11", "64 lower-case"},
		{"blobs/" + strings.ToUpper(hash1) + "/11", "64 lower-case"},
		{"blobs/sha256/" + hash1 + "/11", "left out"},
		{"blobs/sha1/" + hash1[:40] + "/11", "sha1 is not supported"},
		{"blobs/sha256tree/" + hash1 + "/11", "sha256tree is not supported"},
		{"compressed-blobs/" + hash1 + "/11", "compressor"},
		{"compressed-blobs/deflate/" + hash1 + "/11", "\"deflate\" is not supported"},
		{"compressed-blobs/identity/" + hash1 + "/11", "\"identity\" is not supported"},
		{"uploads/u/blobs/" + hash1 + "/11", "unexpected \"uploads\""},
		{"actions/blobs/" + hash1 + "/11", "unexpected \"actions\""},
		{"i/capabilities/blobs/" + hash1 + "/11", "unexpected \"capabilities\""},
		{strings.Repeat("x", 5000) + "/blobs/" + hash1 + "/11", "longer than"},
	} {
		_, err := parseRead(tt.name)
		wantStatus(t, err, codes.InvalidArgument, "resource_name", tt.want, readForm)
	}
	for _, tt := range []struct{ name, want string }{
		{"", "no \"blobs\""},
		{"blobs/" + hash1 + "/11", "unexpected \"blobs\""},
		{"uploads/" + hash1 + "/11", "not \"blobs\""},
		{"uploads/blobs/" + hash1 + "/11", "no UUID"},
		{"uploads//blobs/" + hash1 + "/11", "no UUID"},
		{"uploads/u/" + hash1 + "/11", "not \"blobs\""},
		{"uploads/u/uploads/u/blobs/" + hash1 + "/11", "not \"blobs\""},
		{"uploads/u/compressed-blobs/brotli/" + hash1 + "/11", "\"brotli\" is not supported"},
	} {
		_, err := parseWrite(tt.name)
		wantStatus(t, err, codes.InvalidArgument, "resource_name", tt.want, writeForm)
	}
}

// FuzzResourceNames checks that no name crashes a parser, and that what was read is written and read
// back the same.
func FuzzResourceNames(f *testing.F) {
	for _, seed := range []string{
		"", "/", "blobs", "blobs/" + hash1 + "/11", "/blobs/" + hash1 + "/11", "i/blobs/blake3/" + hash1 + "/11", "a//b/compressed-blobs/zstd/" + hash1 + "/11",
		"uploads/u/blobs/" + hash1 + "/11/meta/data", "i/uploads/u/compressed-blobs/zstd/blake3/" + hash1 + "/011/", "blobs/" + hash1 + "/11/",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		for kind, parse := range map[string]func(string) (resource, error){"read": parseRead, "write": parseWrite} {
			r, err := parse(name)
			if err != nil {
				continue
			}
			if r.digest.Size < 0 || !r.digest.Function.Valid() || (r.upload != "") != (kind == "write") {
				t.Errorf("%s %q: got %+v", kind, name, r)
			}
			for segment := range strings.SplitSeq(r.instance, "/") {
				if isKeyword(segment) {
					t.Errorf("%s %q: keyword %q in the instance", kind, name, segment)
				}
			}
			again, err := parse(r.String())
			if err != nil || again != r {
				t.Errorf("%s %q: got %+v, and after writing and reading it %+v, %v", kind, name, r, again, err)
			}
		}
	})
}

// TestInstanceNames checks the bound in every call that takes a name.
func TestInstanceNames(t *testing.T) {
	r := newRig(t)
	data := []byte("x")
	d := r.put(digest.SHA256, data)
	root := r.put(digest.SHA256, marshal(t, &repb.Directory{}))
	calls := map[string]func(instance string) error{
		"FindMissingBlobs": func(instance string) error {
			_, err := r.cas.FindMissingBlobs(r.ctx, &repb.FindMissingBlobsRequest{InstanceName: instance})
			return err
		},
		"BatchUpdateBlobs": func(instance string) error {
			_, err := r.cas.BatchUpdateBlobs(r.ctx, &repb.BatchUpdateBlobsRequest{InstanceName: instance})
			return err
		},
		"BatchReadBlobs": func(instance string) error {
			_, err := r.cas.BatchReadBlobs(r.ctx, &repb.BatchReadBlobsRequest{InstanceName: instance})
			return err
		},
		"GetTree": func(instance string) error {
			_, err := r.getTree(&repb.GetTreeRequest{InstanceName: instance, RootDigest: root})
			return err
		},
		"UpdateActionResult": func(instance string) error {
			_, err := r.ac.UpdateActionResult(r.ctx, &repb.UpdateActionResultRequest{InstanceName: instance, ActionDigest: d, ActionResult: &repb.ActionResult{ExitCode: 1}})
			return err
		},
		"GetCapabilities": func(instance string) error {
			_, err := r.caps.GetCapabilities(r.ctx, &repb.GetCapabilitiesRequest{InstanceName: instance})
			return err
		},
		"Read": func(instance string) error {
			_, err := r.download(resource{instance: instance, digest: digest.SHA256.Of(data)}.String(), 0, 0)
			return err
		},
		"Write": func(instance string) error {
			_, err := r.write(resource{instance: instance, upload: "u", digest: digest.SHA256.Of(data)}.String(), data, 1)
			return err
		},
		"QueryWriteStatus": func(instance string) error {
			_, err := r.bs.QueryWriteStatus(r.ctx, &bytestream.QueryWriteStatusRequest{ResourceName: resource{instance: instance, upload: "u", digest: digest.SHA256.Of(data)}.String()})
			return err
		},
	}
	get := func(instance string) error {
		_, err := r.ac.GetActionResult(r.ctx, &repb.GetActionResultRequest{InstanceName: instance, ActionDigest: d})
		return err
	}
	longest := strings.Repeat("i/", maxInstance/2-1) + "ii"
	for name, call := range calls {
		if err := call(longest); err != nil {
			t.Errorf("%s with %d bytes: %v", name, len(longest), err)
		}
		wantStatus(t, call(longest+"i"), codes.InvalidArgument, "instance_name", "1024")
	}
	if err := get(longest); err != nil {
		t.Errorf("GetActionResult: %v", err)
	}
	wantStatus(t, get(longest+"i"), codes.InvalidArgument, "instance_name", "1024")
}
