package server

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	remoteasset "github.com/bazelbuild/remote-apis/build/bazel/remote/asset/v1"
	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sarsen-build/sarsen/digest"
)

// assetClients returns clients of both halves of the Remote Asset API.
func (r *rig) assetClients() (remoteasset.FetchClient, remoteasset.PushClient) {
	return remoteasset.NewFetchClient(r.conn), remoteasset.NewPushClient(r.conn)
}

func qualifiers(texts ...string) []*remoteasset.Qualifier {
	var qs []*remoteasset.Qualifier
	for i := 0; i < len(texts); i += 2 {
		qs = append(qs, &remoteasset.Qualifier{Name: texts[i], Value: texts[i+1]})
	}
	return qs
}

// TestAssetProbes sends the requests without anything in them with which BuildStream asks whether it may
// fetch and push.
func TestAssetProbes(t *testing.T) {
	r := newRig(t)
	fetch, push := r.assetClients()
	_, err := fetch.FetchBlob(r.ctx, &remoteasset.FetchBlobRequest{})
	wantStatus(t, err, codes.InvalidArgument, "uris")
	_, err = fetch.FetchDirectory(r.ctx, &remoteasset.FetchDirectoryRequest{InstanceName: "i"})
	wantStatus(t, err, codes.InvalidArgument, "uris")
	_, err = push.PushBlob(r.ctx, &remoteasset.PushBlobRequest{})
	wantStatus(t, err, codes.InvalidArgument, "uris")
	_, err = push.PushDirectory(r.ctx, &remoteasset.PushDirectoryRequest{InstanceName: "i"})
	wantStatus(t, err, codes.InvalidArgument, "uris")
}

func TestAssetBlob(t *testing.T) {
	for _, f := range digest.Functions {
		r := newRig(t)
		fetch, push := r.assetClients()
		function := repb.DigestFunction_Value(f)
		get := &remoteasset.FetchBlobRequest{InstanceName: "i", Uris: []string{"urn:none", "urn:a"}, Qualifiers: qualifiers("q", "1", "p", "2"), DigestFunction: function}
		_, err := fetch.FetchBlob(r.ctx, get)
		wantStatus(t, err, codes.NotFound, "no blob was pushed", "nothing is downloaded")

		d := r.put(f, []byte("pushed"))
		if _, err := push.PushBlob(r.ctx, &remoteasset.PushBlobRequest{
			InstanceName: "i", Uris: []string{"urn:a", "urn:b"}, Qualifiers: qualifiers("p", "2", "q", "1"), BlobDigest: d, DigestFunction: function,
			ExpireAt: timestamppb.New(time.Now().Add(time.Hour)), ReferencesBlobs: []*repb.Digest{r.put(f, []byte("a reference"))},
		}); err != nil {
			t.Fatal(err)
		}
		got, err := fetch.FetchBlob(r.ctx, get)
		if err != nil {
			t.Fatal(err)
		}
		want := &remoteasset.FetchBlobResponse{Uri: "urn:a", Qualifiers: get.Qualifiers, BlobDigest: d, DigestFunction: function}
		wantMessage(t, f.String(), got, want)

		get.OldestContentAccepted = timestamppb.New(time.Now().Add(time.Hour))
		_, err = fetch.FetchBlob(r.ctx, get)
		wantStatus(t, err, codes.NotFound)
		get.OldestContentAccepted, get.InstanceName = nil, "j"
		_, err = fetch.FetchBlob(r.ctx, get)
		wantStatus(t, err, codes.NotFound)
		_, err = fetch.FetchDirectory(r.ctx, &remoteasset.FetchDirectoryRequest{InstanceName: "i", Uris: get.Uris, Qualifiers: get.Qualifiers, DigestFunction: function})
		wantStatus(t, err, codes.NotFound, "no directory was pushed")
	}
}

func TestAssetDirectory(t *testing.T) {
	for _, f := range digest.Functions {
		r := newRig(t)
		fetch, push := r.assetClients()
		function := repb.DigestFunction_Value(f)
		absent := f.Of([]byte("a file that never came"))
		file := r.put(f, []byte("a file"))
		root := func(files ...*repb.FileNode) *repb.Digest {
			branch := r.put(f, marshal(t, &repb.Directory{Files: files}))
			return r.put(f, marshal(t, &repb.Directory{Directories: []*repb.DirectoryNode{{Name: "branch", Digest: branch}}}))
		}
		d := root(&repb.FileNode{Name: "x", Digest: file})
		req := &remoteasset.PushDirectoryRequest{Uris: []string{"urn:a"}, RootDirectoryDigest: d, DigestFunction: function, ReferencesDirectories: []*repb.Digest{root()}}
		if _, err := push.PushDirectory(r.ctx, req); err != nil {
			t.Fatal(err)
		}
		get := &remoteasset.FetchDirectoryRequest{Uris: []string{"urn:a"}, DigestFunction: function}
		got, err := fetch.FetchDirectory(r.ctx, get)
		if err != nil {
			t.Fatal(err)
		}
		want := &remoteasset.FetchDirectoryResponse{Uri: "urn:a", RootDirectoryDigest: d, DigestFunction: function}
		wantMessage(t, f.String(), got, want)

		// With a file missing somewhere below, a directory can't be pushed, and what was there stays.
		req.RootDirectoryDigest = root(&repb.FileNode{Name: "x", Digest: onWire(absent)})
		_, err = push.PushDirectory(r.ctx, req)
		wantStatus(t, err, codes.FailedPrecondition, "the asset needs blob "+absent.String())
		violations := status.Convert(err).Details()[0].(*errdetails.PreconditionFailure).GetViolations()
		if len(violations) != 1 || violations[0].Type != "MISSING" || violations[0].Subject != (resource{digest: absent}).String() {
			t.Errorf("violations: got %v, want one that names %v", violations, absent)
		}
		if got, err = fetch.FetchDirectory(r.ctx, get); err != nil {
			t.Fatal(err)
		}
		wantMessage(t, "after a push that was refused", got, want)

		req.RootDirectoryDigest = file
		_, err = push.PushDirectory(r.ctx, req)
		wantStatus(t, err, codes.InvalidArgument, "is not a Directory")
	}
}

// TestAssetChecksum fetches in the way of Bazel's downloader what somebody else uploaded.
func TestAssetChecksum(t *testing.T) {
	r := newRig(t)
	fetch, push := r.assetClients()
	d := digest.SHA256.Of([]byte("an archive"))
	sum := "sha256-" + base64.StdEncoding.EncodeToString(d.Hash[:])
	get := &remoteasset.FetchBlobRequest{Uris: []string{"https://a/x.tar.gz"}, Qualifiers: qualifiers("checksum.sri", sum, "bazel.canonical_id", "https://a/x.tar.gz")}
	_, err := fetch.FetchBlob(r.ctx, get)
	wantStatus(t, err, codes.NotFound, "nothing is downloaded")
	r.put(digest.SHA256, []byte("an archive"))
	got, err := fetch.FetchBlob(r.ctx, get)
	if err != nil {
		t.Fatal(err)
	}
	wantMessage(t, "by checksum", got, &remoteasset.FetchBlobResponse{
		Uri: "https://a/x.tar.gz", Qualifiers: get.Qualifiers, BlobDigest: onWire(d), DigestFunction: repb.DigestFunction_SHA256,
	})
	_, err = push.PushBlob(r.ctx, &remoteasset.PushBlobRequest{Uris: get.Uris, Qualifiers: get.Qualifiers, BlobDigest: r.put(digest.SHA256, []byte("another"))})
	wantStatus(t, err, codes.InvalidArgument, "checksum.sri")
	get.Qualifiers[0].Value = "sha256-AAAA"
	_, err = fetch.FetchBlob(r.ctx, get)
	wantStatus(t, err, codes.InvalidArgument, "checksum.sri")
}

func TestAssetRefused(t *testing.T) {
	r := newRig(t)
	_, push := r.assetClients()
	d := r.put(digest.SHA256, []byte("blob"))
	many := func(n int) (texts []string) {
		for i := range n {
			texts = append(texts, pad(i+1))
		}
		return texts
	}
	for want, change := range map[string]func(*remoteasset.PushBlobRequest){
		"uris: 65":                               func(q *remoteasset.PushBlobRequest) { q.Uris = many(65) },
		"uris[1]: 0 bytes":                       func(q *remoteasset.PushBlobRequest) { q.Uris = []string{"urn:a", ""} },
		"uris[0]: 8193 bytes":                    func(q *remoteasset.PushBlobRequest) { q.Uris = []string{strings.Repeat("u", 8193)} },
		"qualifiers: 65":                         func(q *remoteasset.PushBlobRequest) { q.Qualifiers = qualifiers(many(130)...) },
		"qualifiers[0].name: 0":                  func(q *remoteasset.PushBlobRequest) { q.Qualifiers = qualifiers("", "v") },
		"qualifiers[0].value: 8193":              func(q *remoteasset.PushBlobRequest) { q.Qualifiers = qualifiers("n", strings.Repeat("v", 8193)) },
		`qualifiers[1].name: "n" is there twice`: func(q *remoteasset.PushBlobRequest) { q.Qualifiers = qualifiers("n", "1", "n", "2") },
		"blob_digest: missing":                   func(q *remoteasset.PushBlobRequest) { q.BlobDigest = nil },
		"blob_digest.hash":                       func(q *remoteasset.PushBlobRequest) { q.BlobDigest = &repb.Digest{Hash: "x", SizeBytes: 1} },
		"references_blobs[1].hash":               func(q *remoteasset.PushBlobRequest) { q.ReferencesBlobs = []*repb.Digest{d, nil} },
		"references_directories[0].size_bytes": func(q *remoteasset.PushBlobRequest) {
			q.ReferencesDirectories = []*repb.Digest{{Hash: d.Hash, SizeBytes: -1}}
		},
		"expire_at":       func(q *remoteasset.PushBlobRequest) { q.ExpireAt = &timestamppb.Timestamp{Nanos: -1} },
		"digest_function": func(q *remoteasset.PushBlobRequest) { q.DigestFunction = repb.DigestFunction_MD5 },
		"instance_name":   func(q *remoteasset.PushBlobRequest) { q.InstanceName = strings.Repeat("i", 2000) },
	} {
		req := &remoteasset.PushBlobRequest{Uris: []string{"urn:a"}, BlobDigest: d}
		change(req)
		_, err := push.PushBlob(r.ctx, req)
		wantStatus(t, err, codes.InvalidArgument, want)
	}
	if _, err := push.PushBlob(r.ctx, &remoteasset.PushBlobRequest{Uris: many(64), Qualifiers: qualifiers(many(128)...), BlobDigest: d}); err != nil {
		t.Errorf("as much as is taken: got %v", err)
	}
}
