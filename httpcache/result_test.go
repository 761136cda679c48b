package httpcache

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/zstd"
)

func protoDigest(d digest.Digest) *repb.Digest {
	return &repb.Digest{Hash: d.Hex(), SizeBytes: d.Size}
}

// result returns a result that names one file and standard output, both in the store.
func (f *fixture) result(fn digest.Function) *repb.ActionResult {
	f.t.Helper()
	file, out := []byte("an object file"), []byte("hello\n")
	f.store(fn, file)
	f.store(fn, out)
	return &repb.ActionResult{
		OutputFiles:  []*repb.OutputFile{{Path: "hello.o", Digest: protoDigest(fn.Of(file)), IsExecutable: true}},
		StdoutDigest: protoDigest(fn.Of(out)),
		ExitCode:     3,
	}
}

func acPath(instance string, fn digest.Function, action string) string {
	d := fn.Of([]byte(action))
	d.Size = digest.AnySize
	return name{route: routeAC, instance: instance, digest: d}.String()
}

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func wantResult(t *testing.T, a answer, want *repb.ActionResult) {
	t.Helper()
	got := new(repb.ActionResult)
	if err := proto.Unmarshal([]byte(a.must(t, 200).body), got); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestResult(t *testing.T) {
	for _, fn := range digest.Functions {
		f := newFixture(t, nil)
		want := f.result(fn)
		path := acPath("a/b", fn, "compile")
		f.get(path).must(t, 404, "no result of action ", fn.Of([]byte("compile")).Hex())
		f.do("HEAD", path, nil).must(t, 404)
		data := marshal(t, want)
		if got := f.put(path, data).must(t, 200).body; got != "" {
			t.Errorf("PUT: got %q, want no body", got)
		}
		for _, accept := range []string{"*/*", "application/octet-stream", "application/octet-stream, application/json;q=0.5", "text/html"} {
			a := f.get(path, "Accept", accept)
			wantResult(t, a, want)
			a.wantHeader(t, "Content-Type", "application/octet-stream")
			a.wantHeader(t, "Vary", "Accept")
		}
		head := f.do("HEAD", path, nil).must(t, 200)
		head.wantHeader(t, "Content-Length", fmt.Sprint(len(data)))
		if head.body != "" {
			t.Errorf("HEAD: got %q, want no body", head.body)
		}
		// Results belong to an instance and a digest function, blobs don't.
		for _, other := range []string{acPath("", fn, "compile"), acPath("a", fn, "compile"), acPath("a/b", fn, "link"), acPath("a/b", 10-fn, "compile")} {
			f.get(other).must(t, 404)
		}
		f.get("/any/where"+casPath(fn.Of([]byte("hello\n")))).must(t, 200, "hello\n")
		// The last one wins.
		want.ExitCode = 4
		f.put(path, zstd.Encode(marshal(t, want)), "Content-Encoding", "zstd").must(t, 200)
		wantResult(t, f.get(path), want)
	}
}

// moonResult is what moon 2.5.5 sends, letter by letter but for the hashes and sizes.
const moonResult = `{"outputFiles":[{"path":"app/out/x","digest":{"hash":"%[1]s","sizeBytes":"%[2]d"},"isExecutable":true,` +
	`"nodeProperties":{"mtime":"2026-11-21T10:38:10.121908513+00:00","unixMode":33261}},` +
	`{"path":"app/out/empty","digest":{"hash":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},` +
	`"nodeProperties":{"mtime":"2026-11-21T10:38:10.123393118+00:00","unixMode":33188}}],` +
	`"stdoutDigest":{"hash":"%[1]s","sizeBytes":"%[2]d"},"executionMetadata":{"worker":"moon",` +
	`"outputUploadStartTimestamp":"2026-11-21T10:38:10.135804663+00:00","outputUploadCompletedTimestamp":"2026-11-21T10:38:10.138849460+00:00"}}`

// moon asks for /status, misses, puts blobs, then the result as JSON, and reads that back as JSON.
func TestMoon(t *testing.T) {
	f := newFixture(t, nil)
	header := []string{"User-Agent", "moon", "Accept-Encoding", "zstd,gzip"}
	f.get("/status", header...).must(t, 200)
	path := acPath("moon", digest.SHA256, "app:build")
	f.get(path, append(header, "Accept", "application/json")...).must(t, 404, digest.SHA256.Of([]byte("app:build")).Hex())
	file := digest.SHA256.Of([]byte("built"))
	f.put("/moon"+casPath(file), []byte("built"), header...).must(t, 200)
	f.put("/moon"+casPath(digest.SHA256.Empty()), nil, header...).must(t, 200)
	f.put(path, fmt.Appendf(nil, moonResult, file.Hex(), file.Size), append(header, "Content-Type", "application/json")...).must(t, 200)

	a := f.get(path, append(header, "Accept", "application/json")...).must(t, 200)
	a.wantHeader(t, "Content-Type", "application/json")
	var got struct {
		OutputFiles []struct {
			Path   string
			Digest struct {
				Hash      string
				SizeBytes string
			}
			IsExecutable   bool
			NodeProperties struct {
				Mtime    string
				UnixMode int
			}
		}
		StdoutDigest      struct{ Hash, SizeBytes string }
		ExecutionMetadata map[string]string
	}
	if err := json.Unmarshal([]byte(a.body), &got); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
	if len(got.OutputFiles) != 2 {
		t.Fatalf("got %d files from %s, want 2", len(got.OutputFiles), a.body)
	}
	x := got.OutputFiles[0]
	if x.Path != "app/out/x" || x.Digest.Hash != file.Hex() || x.Digest.SizeBytes != "5" || !x.IsExecutable ||
		x.NodeProperties.Mtime != "2026-11-21T10:38:10.121908513Z" || x.NodeProperties.UnixMode != 33261 ||
		got.StdoutDigest != (struct{ Hash, SizeBytes string }{file.Hex(), "5"}) || got.ExecutionMetadata["worker"] != "moon" {
		t.Errorf("got %+v from %s", got, a.body)
	}
	// The same result in protobuf, for everyone else.
	result := new(repb.ActionResult)
	if err := proto.Unmarshal([]byte(f.get(path).must(t, 200).body), result); err != nil || result.OutputFiles[0].Digest.SizeBytes != 5 {
		t.Errorf("got %v, %v", result, err)
	}
}

// JSON may be spelt in every way that protobuf's JSON mapping takes, and may hold newer fields.
func TestResultJSONSpellings(t *testing.T) {
	f := newFixture(t, nil)
	want := f.result(digest.SHA256)
	want.StdoutDigest, want.ExitCode = nil, 7
	file := want.OutputFiles[0].Digest
	for i, body := range []string{
		`{"outputFiles":[{"path":"hello.o","digest":{"hash":"%s","sizeBytes":"%d"},"isExecutable":true}],"exitCode":7}`,
		`{"output_files":[{"path":"hello.o","digest":{"hash":"%s","size_bytes":%d},"is_executable":true}],"exit_code":7}`,
		`{"outputFiles":[{"path":"hello.o","digest":{"hash":"%s","sizeBytes":%d},"isExecutable":true,"later":[1]}],"exitCode":7,"x":null}`,
	} {
		for j, contentType := range []string{"application/json", "application/json; charset=utf-8", "Application/JSON"} {
			path := acPath("", digest.SHA256, fmt.Sprint(i, j))
			f.put(path, fmt.Appendf(nil, body, file.Hash, file.SizeBytes), "Content-Type", contentType).must(t, 200)
			wantResult(t, f.get(path), want)
		}
	}
	// Bytes are base64; what is inlined becomes a blob.
	path := acPath("", digest.SHA256, "inlined")
	f.put(path, []byte(`{"stdoutRaw":"aGVsbG8K"}`), "Content-Type", "application/json").must(t, 200)
	f.get(path, "Accept", "application/json").must(t, 200, digest.SHA256.Of([]byte("hello\n")).Hex())
}

func TestResultMalformed(t *testing.T) {
	f := newFixture(t, nil)
	path := acPath("", digest.SHA256, "malformed")
	f.put(path, []byte("\xff\xff\xff")).must(t, 400, "ActionResult", "protobuf")
	f.put(path, []byte(`{"outputFiles":[]}`)).must(t, 400, "application/json") // without the content type
	f.put(path, []byte("not JSON"), "Content-Type", "application/json").must(t, 400, "ActionResult", "JSON")
	f.put(path, []byte(`{"exitCode":"x"}`), "Content-Type", "application/json").must(t, 400)
	f.put(path, []byte{}, sizeHeader, "5").must(t, 400)
	f.do("PUT", path, chunked(nil), sizeHeader, "5").must(t, 400, "5")
	f.put(path, nil, "Content-Encoding", "gzip").must(t, 415)
	bad := &repb.ActionResult{OutputFiles: []*repb.OutputFile{{Path: "x", Digest: &repb.Digest{Hash: "zz", SizeBytes: 1}}}}
	f.put(path, marshal(t, bad)).must(t, 400, "output_files[0]", "zz")
	// The tree is there, but is none.
	junk := []byte("\xff\xff\xff")
	f.store(digest.SHA256, junk)
	bad = &repb.ActionResult{OutputDirectories: []*repb.OutputDirectory{{Path: "x", TreeDigest: protoDigest(digest.SHA256.Of(junk))}}}
	f.put(path, marshal(t, bad)).must(t, 400, "tree_digest")
	f.get(path).must(t, 404)
}

func TestResultIncomplete(t *testing.T) {
	f := newFixture(t, nil)
	path := acPath("", digest.SHA256, "incomplete")
	result := f.result(digest.SHA256)
	var missing []string
	for i := range maxNamed + 5 {
		d := digest.SHA256.Of(fmt.Append(nil, "missing", i))
		missing = append(missing, d.String())
		result.OutputFiles = append(result.OutputFiles, &repb.OutputFile{Path: fmt.Sprint(i), Digest: protoDigest(d)})
	}
	a := f.put(path, marshal(t, result)).must(t, 412, "25 missing blobs", "upload the outputs before the result", "and 5 more")
	a.must(t, 412, missing[:maxNamed]...)
	if strings.Contains(a.body, missing[maxNamed]) || strings.Contains(a.body, result.StdoutDigest.Hash) {
		t.Errorf("got %s, want at most %d missing blobs named and no present one", a.body, maxNamed)
	}
	f.get(path).must(t, 404)
	one := &repb.ActionResult{OutputFiles: result.OutputFiles[len(result.OutputFiles)-1:]}
	f.put(path, marshal(t, one)).must(t, 412, "the result names blob "+missing[len(missing)-1]+", which is missing; upload the outputs")
	// The client uploads what it forgot, and tries again.
	for i := range missing {
		f.store(digest.SHA256, fmt.Append(nil, "missing", i))
	}
	f.put(path, marshal(t, result)).must(t, 200)
	wantResult(t, f.get(path), result)
}

// A result whose blobs are gone is a miss.
func TestResultLosesItsBlobs(t *testing.T) {
	f := newFixture(t, nil)
	path := acPath("", digest.SHA256, "evicted")
	f.put(path, marshal(t, f.result(digest.SHA256))).must(t, 200)
	empty := action.New(model.New(0), f.model) // the same records over a store that lost everything
	f.handler.Actions = empty
	f.get(path, "Accept", "application/json").must(t, 404)
	f.do("HEAD", path, nil).must(t, 404)
}

func TestResultTooLarge(t *testing.T) {
	f := newFixture(t, nil)
	path := acPath("", digest.SHA256, "large")
	_, r := f.wire("PUT "+path+" HTTP/1.1", fmt.Sprintf("Content-Length: %d", maxResult+1))
	receive(t, r).must(t, 413, fmt.Sprint(maxResult))
	bomb := zstd.Encode(make([]byte, maxResult+1))
	f.put(path, bomb, "Content-Encoding", "zstd").must(t, 413)
	f.get(path).must(t, 404)
}

// The store's own failures are not taken for the client's.
func TestResultStoreFails(t *testing.T) {
	inlined := marshal(t, &repb.ActionResult{StdoutRaw: []byte("needs room")})
	f := newFixture(t, func(o *Options) { o.Store = &strict{Store: o.Store, createErr: errFull} })
	f.put(acPath("", digest.SHA256, "full"), inlined).must(t, 507, "--max-size")
	broken := newFixture(t, func(o *Options) { o.Actions = action.New(o.Store, brokenRecords{o.Store.(*model.Store)}) })
	path := acPath("", digest.SHA256, "broken")
	// A damaged result is as good as none.
	broken.get(path).must(t, 404, "stored bytes are corrupt")
	broken.put(path, inlined).must(t, 500, "stored bytes are corrupt")
}

type brokenRecords struct{ blob.Records }

func (brokenRecords) Get(context.Context, [32]byte) (blob.Record, error) {
	return blob.Record{}, blob.ErrCorrupt
}

func (brokenRecords) Put(context.Context, [32]byte, []byte) error { return blob.ErrCorrupt }
