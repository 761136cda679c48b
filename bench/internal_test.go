package bench

import (
	"bytes"
	"os"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/encoding"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/digest"
)

func TestPercentile(t *testing.T) {
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(i+1)*time.Millisecond)
	}
	for _, c := range []struct {
		sorted []time.Duration
		p      int
		want   float64
	}{
		{nil, 50, 0},
		{hundred[:1], 50, 1}, {hundred[:1], 99, 1},
		{hundred[:2], 50, 1}, {hundred[:2], 51, 2},
		{hundred[:3], 50, 2}, {hundred[:4], 95, 4},
		{hundred, 50, 50}, {hundred, 95, 95}, {hundred, 99, 99}, {hundred, 100, 100},
	} {
		if got := percentile(c.sorted, c.p); got != c.want {
			t.Errorf("percentile %d of %d = %v, want %v", c.p, len(c.sorted), got, c.want)
		}
	}
}

func TestParseStat(t *testing.T) {
	stat := "4041 (a (very) odd name) S 1 4041 4041 0 -1 4194560 2000 0 3 0 150 75 0 0 20 0 9 0 12345 1234567 890 18446744073709551615"
	if got, err := parseStat([]byte(stat)); err != nil || got != 2.25 {
		t.Errorf("%v, %v, want 2.25", got, err)
	}
	for _, bad := range []string{"", "1 (x) S 1 2", "1 (x) S 1 1 1 0 -1 1 1 1 1 1 many 7 0"} {
		if got, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q gave %v", bad, got)
		}
	}
}

func TestParseStatus(t *testing.T) {
	text := []byte("Name:\tsarsen\nVmPeak:\t 99 kB\nVmHWM:\t   12345 kB\nRssAnon:\t 7 kB\n")
	if got := parseStatus(text, "VmHWM:"); got != 12345<<10 {
		t.Errorf("VmHWM %d", got)
	}
	if got := parseStatus(text, "RssAnon:"); got != 7<<10 {
		t.Errorf("RssAnon %d", got)
	}
	if got := parseStatus(text, "RssFile:"); got != 0 {
		t.Errorf("RssFile %d", got)
	}
}

func TestReadProcess(t *testing.T) {
	p, err := readProcess(os.Getpid())
	if err != nil || p.peak < p.anonymous || p.anonymous == 0 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestParseHTTP(t *testing.T) {
	for text, want := range map[string]httpTarget{
		"http://127.0.0.1:8981":      {"127.0.0.1:8981", ""},
		"http://127.0.0.1:8981/":     {"127.0.0.1:8981", ""},
		"http://cache:80/some/name/": {"cache:80", "/some/name"},
	} {
		if got, err := parseHTTP(text); err != nil || *got != want {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "cache:80", "https://cache:80", "http://cache", "http://cache:80?x", "http://u@cache:80"} {
		if got, err := parseHTTP(text); err == nil {
			t.Errorf("%q gave %v", text, got)
		}
	}
}

func testSession() *session {
	return &session{instance: "some/instance", random: newSource(1), short: true}
}

func TestPayloadSlices(t *testing.T) {
	s := testSession()
	whole := s.random.bytes(1000)
	for _, split := range []int{0, 64, 1000} {
		p := newPayload(whole[:split], whole[split:])
		if p.digest != digest.SHA256.Of(whole) {
			t.Errorf("split at %d: digest %v", split, p.digest)
		}
		for offset := int64(0); offset < 1000; offset += 33 {
			a, b := p.slice(offset, 100)
			got, want := append(bytes.Clone(a), b...), whole[offset:min(offset+100, 1000)]
			if !bytes.Equal(got, want) || !p.equal(offset, want) {
				t.Errorf("split at %d, offset %d: %d bytes, want %d", split, offset, len(got), len(want))
			}
			wrong := bytes.Clone(want)
			wrong[len(wrong)-1] ^= 1
			if p.equal(offset, wrong) || p.equal(offset, append(bytes.Clone(want), make([]byte, 1000)...)) {
				t.Errorf("split at %d, offset %d: wrong bytes are equal", split, offset)
			}
		}
	}
}

func TestFreshPayloadsDiffer(t *testing.T) {
	s := testSession()
	seen := map[string]bool{}
	for _, size := range []int{4 * kib, 2 * mib} {
		for range 2 {
			for _, p := range s.fresh(3, size) {
				if seen[p.hex] || p.digest.Size != int64(size) {
					t.Errorf("%v came before, or has the wrong size", p.digest)
				}
				seen[p.hex] = true
			}
		}
	}
}

// decode passes a message through the codec as gRPC does and decodes it as want's type.
func decode(t *testing.T, m *message, as proto.Message) {
	t.Helper()
	c := codec{encoding.GetCodecV2("proto")}
	data, err := c.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var received message
	if err := c.Unmarshal(data, &received); err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(received.buffer, as); err != nil {
		t.Fatal(err)
	}
}

func TestBatchUpdateRequest(t *testing.T) {
	s := testSession()
	list := []payload{newPayload([]byte("one"), nil), newPayload([]byte("two and "), []byte("its tail"))}
	got := new(repb.BatchUpdateBlobsRequest)
	decode(t, s.batchUpdateRequest(list).request, got)
	want := &repb.BatchUpdateBlobsRequest{InstanceName: s.instance, DigestFunction: repb.DigestFunction_SHA256}
	for i, data := range []string{"one", "two and its tail"} {
		want.Requests = append(want.Requests, &repb.BatchUpdateBlobsRequest_Request{Digest: wire(list[i].digest), Data: []byte(data)})
	}
	if !proto.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestCheckMissing(t *testing.T) {
	d := func(text string) *repb.Digest { return wire(digest.SHA256.Of([]byte(text))) }
	want := map[string]int{d("a").Hash: 0, d("b").Hash: 1}
	for name, c := range map[string]struct {
		missing []*repb.Digest
		ok      bool
	}{
		"both":       {[]*repb.Digest{d("b"), d("a")}, true},
		"one":        {[]*repb.Digest{d("b")}, false},
		"one twice":  {[]*repb.Digest{d("b"), d("b")}, false},
		"a stranger": {[]*repb.Digest{d("a"), d("c")}, false},
		"none":       {nil, false},
	} {
		err := checkMissing(encode(&repb.FindMissingBlobsResponse{MissingBlobDigests: c.missing}), want)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckRead(t *testing.T) {
	list := []payload{newPayload([]byte("one"), nil), newPayload([]byte("two"), nil)}
	b := batch{blobs: list}
	answer := func(i int, data string) *repb.BatchReadBlobsResponse_Response {
		return &repb.BatchReadBlobsResponse_Response{Digest: wire(list[i].digest), Data: []byte(data)}
	}
	for name, c := range map[string]struct {
		answers []*repb.BatchReadBlobsResponse_Response
		ok      bool
	}{
		"in order":    {[]*repb.BatchReadBlobsResponse_Response{answer(0, "one"), answer(1, "two")}, true},
		"other order": {[]*repb.BatchReadBlobsResponse_Response{answer(1, "two"), answer(0, "one")}, true},
		"wrong bytes": {[]*repb.BatchReadBlobsResponse_Response{answer(0, "one"), answer(1, "twO")}, false},
		"too short":   {[]*repb.BatchReadBlobsResponse_Response{answer(0, "one"), answer(1, "tw")}, false},
		"one twice":   {[]*repb.BatchReadBlobsResponse_Response{answer(0, "one"), answer(0, "one")}, false},
		"one only":    {[]*repb.BatchReadBlobsResponse_Response{answer(0, "one")}, false},
	} {
		err := b.checkRead(encode(&repb.BatchReadBlobsResponse{Responses: c.answers}))
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckTree(t *testing.T) {
	tree := testSession().newTree()
	want := map[digest.Digest]bool{}
	var all []byte
	for _, p := range tree {
		want[p.digest] = true
		all = protowire.AppendBytes(protowire.AppendTag(all, 1, protowire.BytesType), p.head)
	}
	if len(tree) != treeDirectories || len(want) != treeDirectories {
		t.Fatalf("%d directories, %d distinct", len(tree), len(want))
	}
	last := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), tree[len(tree)-1].head)
	for name, c := range map[string]struct {
		answer []byte
		ok     bool
	}{
		"all":      {all, true},
		"one less": {all[:len(all)-len(last)], false},
		"twice":    {append(bytes.Clone(all), last...), false},
		"cut":      {all[:len(all)-1], false},
	} {
		if err := checkTree(c.answer, want); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckResult(t *testing.T) {
	d := func(text string) *repb.Digest { return wire(digest.SHA256.Of([]byte(text))) }
	result := &repb.ActionResult{OutputFiles: []*repb.OutputFile{{Path: "a", Digest: d("a")}}, StdoutDigest: d("out")}
	r := actionResult{result: result, outputs: [][]byte{encode(&repb.ActionResult{OutputFiles: result.OutputFiles}), encode(&repb.ActionResult{StdoutDigest: d("out")})}}
	changed := func(f func(*repb.ActionResult)) []byte {
		other := proto.CloneOf(result)
		f(other)
		return encode(other)
	}
	for name, c := range map[string]struct {
		answer []byte
		ok     bool
	}{
		"same":         {encode(result), true},
		"with worker":  {changed(func(o *repb.ActionResult) { o.ExecutionMetadata = &repb.ExecutedActionMetadata{Worker: "w"} }), true},
		"inlined":      {changed(func(o *repb.ActionResult) { o.OutputFiles[0].Contents = []byte("a") }), true},
		"other output": {changed(func(o *repb.ActionResult) { o.OutputFiles[0].Digest = d("b") }), false},
		"no stdout":    {changed(func(o *repb.ActionResult) { o.StdoutDigest = nil }), false},
		"empty":        {nil, false},
		"not a result": {[]byte{0xff}, false},
	} {
		if err := r.check(c.answer); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Answers come from outside: no bytes may do more than fail a check.
func FuzzChecks(f *testing.F) {
	p := newPayload([]byte("one"), nil)
	f.Add(encode(&repb.FindMissingBlobsResponse{MissingBlobDigests: []*repb.Digest{wire(p.digest)}}))
	f.Add(encode(&repb.BatchReadBlobsResponse{Responses: []*repb.BatchReadBlobsResponse_Response{{Digest: wire(p.digest), Data: p.head}}}))
	f.Add([]byte{0x52, 0x05, 1, 2})
	f.Fuzz(func(t *testing.T, answer []byte) {
		b := batch{blobs: []payload{p}}
		if b.checkRead(answer) == nil && !bytes.Contains(answer, p.head) {
			t.Errorf("%x passes without the blob in it", answer)
		}
		if checkMissing(answer, map[string]int{p.hex: 0}) == nil && !bytes.Contains(answer, []byte(p.hex)) {
			t.Errorf("%x passes without the digest in it", answer)
		}
		_ = checkTree(answer, nil)
		_ = checkCommitted(answer, 3)
		_ = statusOf(answer)
	})
}
