package httpcache

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
)

// TestNamesOfBytes names entries by bytes that are no UTF-8, which a record can't hold. That is the client's mistake,
// not a failure of the store.
func TestNamesOfBytes(t *testing.T) {
	f := newFixture(t, nil)
	for _, path := range []string{
		"/gradle/team/%ff", "/gradle/%ff/a", "/nx/team/v1/cache/%ff", "/turbo/team/v8/artifacts/%ff", "/sccache/team/%ff/a",
		"/maven/team/a/%c3", "/metro/team/%ff", "/nix/team/%ff.narinfo",
	} {
		f.put(path, []byte("x")).must(t, 400)
		f.get(path).must(t, 400)
	}
	for _, path := range []string{"/api/cache/gradle/%ff" + kuraQuery, "/api/cache/gradle/a?tenant_id=%ff&namespace_id=b"} {
		f.put(path, []byte("x")).must(t, 422)
	}
	f.put("/turbo/team/v8/artifacts/a", []byte("x"), "X-Artifact-Tag", "\xff").must(t, 400)
	f.get("/turbo/team/v8/artifacts/a").must(t, 404)
	f.put("/maven/team/\u00e4/\U0001F600", []byte("x")).must(t, 201)
	f.get("/maven/team/%c3%a4/%f0%9f%98%80").must(t, 200, "x")
}

// TestPartOfAnEntry sends a part of an entry, as 'curl --continue-at' does. An entry is whole or absent.
func TestPartOfAnEntry(t *testing.T) {
	for _, s := range surfaces {
		f := newFixture(t, nil)
		f.send(s.put, s.path, []byte("rest"), "Content-Range", "bytes 6-9/10").must(t, 400)
		f.get(s.path).must(t, 404)
	}
}

// TestEmptyCcacheEntry puts an entry without bytes that does not say so.
func TestEmptyCcacheEntry(t *testing.T) {
	f := newFixture(t, nil)
	f.do("PUT", "/ccache/team/"+ccacheHash, chunked(nil)).must(t, 400)
	f.get("/ccache/team/"+ccacheHash).must(t, 404)
}

// TestSmallBesideSpool fills the room for large bodies. Small ones need none of it.
func TestSmallBesideSpool(t *testing.T) {
	for _, s := range surfaces {
		f := newFixture(t, nil)
		f.handler.spoolLeft.Store(-1)
		f.send(s.put, s.path, noise(1, 1000)).must(t, s.stored)
		f.send(s.put, s.other, noise(1, 300_000)).must(t, s.full)
	}
}

// TestBuffers holds many large uploads in the middle. Each may have one buffer.
func TestBuffers(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.MaxBlobSize = 1 << 30 })
	var before, during runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&before)
	const n = 100
	for i := range n {
		c, _ := f.wire(fmt.Sprintf("PUT /gradle/team/%d HTTP/1.1", i), "Content-Length: 300000")
		send(t, c, string(noise(1, 200_000)))
	}
	for f.handler.spoolLeft.Load() > 1<<30-n*200_000 {
		runtime.Gosched()
	}
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&during)
	if got := int64(during.HeapAlloc-before.HeapAlloc) / n; got > 200_000 {
		t.Errorf("%d bytes of memory for each upload, want one buffer", got)
	}
}

// TestManyArtifacts asks Turborepo's batch query for more than anybody has.
func TestManyArtifacts(t *testing.T) {
	f := newFixture(t, nil)
	query := func(n int) []byte {
		return []byte(`{"hashes":["` + strings.Repeat(`a","`, n-1) + `a"]}`)
	}
	f.send("POST", "/turbo/team/v8/artifacts", query(maxHashes)).must(t, 200)
	f.send("POST", "/turbo/team/v8/artifacts", query(maxHashes+1)).must(t, 413)
}

// TestUnknownRanges asks for ranges that mean nothing here (RFC 9110 section 14.2), and for one of no bytes.
func TestUnknownRanges(t *testing.T) {
	f := newFixture(t, nil)
	d := digest.SHA256.Of([]byte("entry"))
	f.put("/gradle/team/a", []byte("entry")).must(t, 200)
	for _, path := range []string{"/gradle/team/a", casPath(d)} {
		f.get(path, "Range", "lines=1-2").must(t, 200, "entry").wantHeader(t, "Content-Range", "")
		f.get(path, "Range", "bytes=-0").must(t, 416).wantHeader(t, "Content-Range", "bytes */5")
		f.get(path, "Range", "bytes=-1").must(t, 206, "y")
	}
}

// TestNarURLs has archives where Nix would find them.
func TestNarURLs(t *testing.T) {
	f := newFixture(t, nil)
	f.put("/nix/team/nar/1.nar", []byte("archive")).must(t, 201)
	for url, code := range map[string]int{
		"nar/1.nar": 200, "/nar//1.nar": 200, "nar/1.nar?hash=abc": 200, "nar/2.nar?hash=abc": 404, "https://elsewhere.example/nar/2.nar": 200, "%": 404, "": 404,
	} {
		f.put("/nix/team/0.narinfo", []byte("StorePath: /nix/store/0\nURL: "+url+"\nCompression: none\n")).must(t, 201)
		f.get("/nix/team/0.narinfo").must(t, code)
	}
}

// TestCheckMethods asks for what is nothing to do with sccache's check.
func TestCheckMethods(t *testing.T) {
	f := newFixture(t, nil)
	f.send("POST", "/sccache/team/.sccache_check", []byte("x")).must(t, http.StatusMethodNotAllowed)
}

// TestModuleTooLarge completes a module of more than the store ever takes: the client must not try again and again.
func TestModuleTooLarge(t *testing.T) {
	f := newFixture(t, nil) // takes 8 MiB
	const module = "/api/cache/module/"
	_, rest, _ := strings.Cut(f.do("POST", module+"start"+kuraQuery+"&hash=h&name=m", nil).must(t, 200).body, `{"upload_id":"`)
	upload := kuraQuery + "&upload_id=" + strings.TrimSuffix(rest, `"}`)
	for n := 1; n <= 2; n++ {
		f.send("POST", fmt.Sprintf("%spart%s&part_number=%d", module, upload, n), noise(uint64(n), 5<<20)).must(t, 204)
	}
	f.handler.spoolLeft.Add(-4 << 20) // another upload is under way
	f.send("POST", module+"complete"+upload, []byte(`{"parts":[1,2]}`)).must(t, 413)
	f.send("POST", module+"complete"+upload, []byte(`{"parts":[1]}`)).must(t, 429)
}

// A slow store takes a second to say what is missing.
type slow struct{ *model.Store }

func (s slow) Missing(ctx context.Context, ds digest.Set) (digest.Set, error) {
	time.Sleep(time.Second)
	return s.Store.Missing(ctx, ds)
}

// TestSlowQuery asks a slow store for many artifacts at once: that is a look-up too, answered in the time of one.
func TestSlowQuery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := slow{model.New(time.Hour)}
		h := newHandler(Options{Store: store, Actions: action.New(store, store), SpoolDir: t.TempDir()})
		do := func(method, path, body string) int {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
			return w.Code
		}
		if got := do("PUT", "/turbo/team/v8/artifacts/a", "x"); got != 202 {
			t.Fatalf("PUT: got %d", got)
		}
		begun := time.Now()
		if got := do("POST", "/turbo/team/v8/artifacts", `{"hashes":["`+strings.Repeat(`a","`, 100)+`a"]}`); got != 403 || time.Since(begun) > forTurbo.patience {
			t.Errorf("got %d after %v, want 403 within %v", got, time.Since(begun), forTurbo.patience)
		}
		time.Sleep(time.Minute) // what was given up ends
	})
}
