package httpcache

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sarsen-build/sarsen/digest"
)

func TestTurborepo(t *testing.T) {
	f, b := newBroken(t)
	const base = "/turbo/team/v8/artifacts"
	f.get(base+"/status?slug=x").must(t, 200, `{"status":"enabled"}`)
	f.send("POST", base+"/events", []byte(`[{"event":"HIT"}]`)).must(t, 200)
	f.put(base+"/a", []byte("12345"), "X-Artifact-Duration", "42", "X-Artifact-Tag", "sig=", "X-Artifact-Sha", "c0ffee", "X-Other", "x").must(t, 202, `"urls":["http://`, base+`/a"`)
	f.put(base+"/b", []byte("1")).must(t, 202)
	for _, method := range []string{"GET", "HEAD"} {
		a := f.do(method, base+"/a", nil).must(t, 200)
		a.wantHeader(t, "X-Artifact-Duration", "42")
		a.wantHeader(t, "X-Artifact-Tag", "sig=")
		a.wantHeader(t, "X-Artifact-Sha", "c0ffee")
		a.wantHeader(t, "X-Other", "")
	}
	got := f.send("POST", base, []byte(`{"hashes":["a","b","c"]}`)).must(t, 200).body
	if want := `{"a":{"size":5,"taskDurationMs":42,"tag":"sig="},"b":{"size":1,"taskDurationMs":0},"c":null}`; got != want {
		t.Errorf("query: got %s, want %s", got, want)
	}
	f.send("POST", base, []byte("{")).must(t, 400, `{"error":{"code":"unavailable"`)
	f.get(base).must(t, 405)
	a := f.do("OPTIONS", base+"/a", nil).must(t, 204)
	if got := a.header.Get("Access-Control-Allow-Headers"); !strings.HasPrefix(got, "Authorization, ") {
		t.Errorf("preflight: allowed are %q, want Authorization first", got)
	}
	a.wantHeader(t, "Location", "")
	f.get(base+"/c").must(t, 404, `{"error":{"code":"not_found"`).wantHeader(t, "Content-Type", "application/json")
	b.err = errors.New("the disk fails")
	f.put(base+"/c", []byte("1")).must(t, 403, `{"error":{"code":"remote_caching_paused"`)
	f.get(base+"/status").must(t, 200, "enabled")
	b.err = errFull
	f.put(base+"/c", []byte("1")).must(t, 403, `{"error":{"code":"remote_caching_over_limit"`)
}

func TestCcacheLayouts(t *testing.T) {
	f := newFixture(t, nil)
	names := []string{ccacheHash, ccacheHash[:2] + "/" + ccacheHash[2:], "ac/" + ccacheHash + ccacheHash[:24], oldCcacheHash, "01/" + oldCcacheHash[2:]}
	for i, put := range names {
		data := fmt.Sprint("from ", i)
		f.put("/ccache/team/"+put, []byte(data)).must(t, 200)
		for _, get := range names {
			f.get("/ccache/team/"+get).must(t, 200, data)
			f.do("HEAD", "/ccache/team/"+get, nil).must(t, 200)
		}
	}
	f.put("/ccache/team/"+ccacheHash, nil).must(t, 400)
	f.do("DELETE", "/ccache/team/"+names[1], nil).must(t, 204)
	for _, get := range append(names, "ac/"+ccacheHash+ccacheHash[1:25]) {
		f.get("/ccache/team/"+get).must(t, 404)
	}
}

func TestSccacheWebDAV(t *testing.T) {
	f, b := newBroken(t)
	const base = "/sccache/team/prefix"
	f.put(base+"/0/1/2/012", []byte("12345")).must(t, 201)
	f.do("PROPFIND", base+"/0/1/2/012", nil).must(t, 207, "<D:href>/sccache/team/prefix/0/1/2/012</D:href>", "<D:getcontentlength>5</D:getcontentlength>", "HTTP/1.1 200 OK")
	f.do("PROPFIND", base+"/0/1/2/013", nil).must(t, 404)
	f.do("PROPFIND", base+"/&/", nil).must(t, 207, "<D:href>/sccache/team/prefix/&amp;/</D:href>", "<D:collection/>")
	f.do("OPTIONS", base+"/", nil).must(t, 204).wantHeader(t, "DAV", "1")
	f.get(base+"/").must(t, 404)
	// With no store at all sccache's check succeeds, and no directory has to be made.
	b.err = errors.New("the disk fails")
	f.get(base+"/.sccache_check").must(t, 200, "Hello, World!")
	f.put(base+"/.sccache_check", []byte("Hello, World!")).must(t, 201)
	f.do("PROPFIND", base+"/.sccache_check", nil).must(t, 207, "getcontentlength>13<")
	f.do("DELETE", base+"/.sccache_check", nil).must(t, 204)
	for _, dir := range []string{"/", "/0/", "/0/1/9/"} {
		f.do("PROPFIND", base+dir, nil).must(t, 207, "<D:collection/>")
		f.do("MKCOL", base+dir, nil).must(t, 201)
	}
	f.do("PROPFIND", base+"/0/1/2/012", nil).must(t, 404)
}

func TestMavenSaysNothingOfDAV(t *testing.T) {
	f := newFixture(t, nil)
	f.do("OPTIONS", "/maven/team/v1.1/", nil).must(t, 405).wantHeader(t, "DAV", "")
	f.do("MKCOL", "/maven/team/v1.1/", nil).must(t, 405)
}

func TestNix(t *testing.T) {
	f, b := newBroken(t)
	f.get("/nix/team/nix-cache-info").must(t, 200, "StoreDir: /nix/store\n", "WantMassQuery: 1\n")
	const info = "StorePath: /nix/store/abc-x\nURL: nar/abc.nar.xz\nSig: k:c2ln\n"
	f.put("/nix/team/abc.narinfo", []byte(info)).must(t, 201)
	// Without its archive a .narinfo would be a promise that is not kept.
	f.get("/nix/team/abc.narinfo").must(t, 404, "archive")
	f.do("HEAD", "/nix/team/abc.narinfo", nil).must(t, 404)
	f.put("/nix/team/nar/abc.nar.xz", []byte("archive")).must(t, 201)
	f.get("/nix/team/abc.narinfo").must(t, 200, info).wantHeader(t, "Content-Type", "text/x-nix-narinfo")
	f.do("HEAD", "/nix/team/abc.narinfo", nil).must(t, 200).wantHeader(t, "Content-Length", fmt.Sprint(len(info)))
	f.put("/nix/team/odd.narinfo", []byte("no archive")).must(t, 201)
	f.get("/nix/team/odd.narinfo").must(t, 404)
	f.put("/nix/team/log/x.drv", []byte("a log")).must(t, 201)
	f.get("/nix/team/log/x.drv").must(t, 200, "a log")
	f.put("/nix/team/nix-cache-info", []byte("StoreDir: /other\n")).must(t, 201)
	f.get("/nix/team/nix-cache-info").must(t, 200, "StoreDir: /other\n")
	b.err = errors.New("the disk fails")
	f.get("/nix/team/nix-cache-info").must(t, 200, "StoreDir: /nix/store\n")
	f.get("/nix/team/abc.narinfo").must(t, 404)
}

func TestKuraChecksums(t *testing.T) {
	f := newFixture(t, nil)
	sum := digest.SHA256.Of([]byte("bytes")).Hex()
	for path, method := range map[string]string{"/api/cache/cas/x": "POST", "/api/cache/gradle/x": "PUT"} {
		f.send(method, path+kuraQuery, []byte("other"), kuraSum, sum).must(t, 422, `{"message":"`)
		f.send(method, path+kuraQuery, []byte("bytes"), kuraSum, "xyz").must(t, 400)
		f.get(path+kuraQuery).must(t, 404, `{"message":"`)
		f.send(method, path+kuraQuery, []byte("bytes"), kuraSum, sum)
		f.get(path+kuraQuery).must(t, 200, "bytes").wantHeader(t, kuraSum, sum)
		f.get(path+kuraQuery, "Range", "bytes=1-").must(t, 206, "ytes").wantHeader(t, kuraSum, sum)
	}
}

func TestKuraValues(t *testing.T) {
	f, b := newBroken(t)
	const put, get = "/api/cache/keyvalue" + kuraQuery, "/api/cache/keyvalue/0~k" + kuraQuery
	f.get(get).must(t, 404)
	f.put(put, []byte(`{"cas_id":"0~k","entries":[{"value":"v1"},{"value":"v2"}]}`)).must(t, 204)
	a := f.get(get).must(t, 200)
	a.wantHeader(t, "Content-Type", "application/json")
	if want := `{"entries":[{"value":"v1"},{"value":"v2"}]}`; a.body != want {
		t.Errorf("got %s, want %s", a.body, want)
	}
	f.put(put, []byte(`{"cas_id":"0~k","entries":[{"value":"`+strings.Repeat("v", 200_000)+`"}]}`)).must(t, 204)
	f.get(get).must(t, 200, "vvv")
	f.put(put, []byte(strings.Repeat(" ", 1<<20+1))).must(t, 413)
	for _, body := range []string{"", "{}", `{"cas_id":"k"}`, `{"entries":[]}`} {
		f.put(put, []byte(body)).must(t, 400)
	}
	f.put(get, []byte("{}")).must(t, 405)
	f.get(put).must(t, 405)
	b.err = errors.New("the disk fails")
	f.get(get).must(t, 429)
	if a := f.put(put, []byte(`{"cas_id":"0~k","entries":[]}`)).must(t, 429); a.header.Get("Retry-After") == "" {
		t.Error("429 has no Retry-After")
	}
}

func TestKuraModules(t *testing.T) {
	f := newFixture(t, nil)
	const module = "/api/cache/module/"
	const id = kuraQuery + "&hash=h&name=M.framework.zip"
	f.do("HEAD", module+"x"+id, nil).must(t, 404)
	f.do("HEAD", module+"x"+kuraQuery, nil).must(t, 422)
	begin := func() string {
		t.Helper()
		_, rest, ok := strings.Cut(f.do("POST", module+"start"+id, nil).must(t, 200).body, `{"upload_id":"`)
		if !ok {
			t.Fatal("got no upload_id")
		}
		return kuraQuery + "&upload_id=" + strings.TrimSuffix(rest, `"}`)
	}
	upload := begin()
	first, second := noise(1, 300_000), noise(2, 1000)
	f.send("POST", module+"part"+upload+"&part_number=2", second).must(t, 204)
	f.send("POST", module+"part"+upload+"&part_number=1", second).must(t, 204)
	f.send("POST", module+"part"+upload+"&part_number=1", first).must(t, 204)
	f.send("POST", module+"part"+upload+"&part_number=0", first).must(t, 400)
	f.send("POST", module+"part"+kuraQuery+"&upload_id=none&part_number=1", first).must(t, 404)
	_, r := f.wire("POST "+module+"part"+upload+"&part_number=3 HTTP/1.1", "Expect: 100-continue", fmt.Sprintf("Content-Length: %d", 10<<20+1))
	receive(t, r).must(t, 413)

	complete := func(upload, body string, code int) {
		t.Helper()
		f.send("POST", module+"complete"+upload, []byte(body)).must(t, code)
	}
	both := append(append([]byte{}, first...), second...)
	sum := digest.SHA256.Of(both).Hex()
	complete(upload, `{"parts":[]}`, 400)
	complete(upload, `{"parts":[2,1]}`, 400)
	complete(upload, `{"parts":[1,2,3]}`, 400)
	complete(upload, `{"parts":[1,2],"checksum_sha256":"`+digest.SHA256.Of(first).Hex()+`"}`, 422)
	f.do("HEAD", module+"x"+id, nil).must(t, 404)
	complete(upload, `{"parts":[1,2],"checksum_sha256":"`+sum+`"}`, 204)
	complete(upload, `{"parts":[1,2]}`, 404)
	f.do("HEAD", module+"x"+id, nil).must(t, 204)
	f.get(module+"x"+id).must(t, 200).wantHeader(t, kuraSum, sum)
	wantEntry(t, f, module+"x"+id, both)
	f.do("POST", module+"start"+id, nil).must(t, 200, `{"upload_id":null}`)
	f.get(module+"x"+id+"&cache_category=other").must(t, 404)
	f.noSpoolFiles()

	f.do("DELETE", "/api/cache/clean"+kuraQuery, nil).must(t, 204)
	f.do("HEAD", module+"x"+id, nil).must(t, 404)
	again := begin()
	f.do("DELETE", "/api/cache/clean"+kuraQuery, nil).must(t, 204)
	f.send("POST", module+"part"+again+"&part_number=1", first).must(t, 404)
	f.do("GET", "/api/cache/clean"+kuraQuery, nil).must(t, 405)
	f.do("DELETE", "/api/cache/", nil).must(t, 422)
}
