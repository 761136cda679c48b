package httpcache

import (
	"strings"
	"testing"

	"github.com/sarsen-build/sarsen/digest"
)

func TestParsePath(t *testing.T) {
	hash := strings.Repeat("ab", 32)
	for _, test := range []struct {
		path, instance, canonical string
		route                     route
		function                  digest.Function
	}{
		{"/cas/" + hash, "", "/cas/" + hash, routeCAS, digest.SHA256},
		{"/ac/" + hash, "", "/ac/" + hash, routeAC, digest.SHA256},
		{"/cas/sha256/" + hash, "", "/cas/" + hash, routeCAS, digest.SHA256},
		{"/cas/blake3/" + hash, "", "/cas/blake3/" + hash, routeCAS, digest.BLAKE3},
		{"/ac/blake3/" + hash, "", "/ac/blake3/" + hash, routeAC, digest.BLAKE3},
		{"/moon/ac/" + hash, "moon", "/moon/ac/" + hash, routeAC, digest.SHA256},
		{"/a/b/c/cas/" + hash, "a/b/c", "/a/b/c/cas/" + hash, routeCAS, digest.SHA256},
		{"/a/b/ac/blake3/" + hash, "a/b", "/a/b/ac/blake3/" + hash, routeAC, digest.BLAKE3},
		{"//a//b/cas//" + hash, "a/b", "/a/b/cas/" + hash, routeCAS, digest.SHA256},
		{"/cas/ac/" + hash, "cas", "/cas/ac/" + hash, routeAC, digest.SHA256},
		{"/ac/cas/blake3/" + hash, "ac", "/ac/cas/blake3/" + hash, routeCAS, digest.BLAKE3},
		{"/status/cas/" + hash, "status", "/status/cas/" + hash, routeCAS, digest.SHA256},
		{"/büro/cas/" + hash, "büro", "/büro/cas/" + hash, routeCAS, digest.SHA256},
	} {
		n, err := parsePath(test.path)
		if err != nil {
			t.Errorf("%s: got error %v", test.path, err)
			continue
		}
		if n.route != test.route || n.instance != test.instance || n.digest.Function != test.function ||
			n.digest.Hex() != hash || n.digest.Size != digest.AnySize || n.String() != test.canonical {
			t.Errorf("%s: got %+v (%s), want %+v", test.path, n, n, test)
		}
	}
}

func TestParsePathErrors(t *testing.T) {
	hash := strings.Repeat("ab", 32)
	for _, test := range []struct {
		path string
		code int
	}{
		{"", 404},
		{"/", 404},
		{"/cas", 404},
		{"/" + hash, 404},
		{"/casx/" + hash, 404},
		{"/x/healthz", 404},
		{"/cas/" + hash[1:], 400},
		{"/cas/" + hash + "0", 400},
		{"/cas/" + strings.ToUpper(hash), 400},
		{"/cas/" + hash[:62] + "zz", 400},
		{"/cas/" + hash + "/12", 400},
		{"/cas/md5/" + hash, 400},
		{"/cas/BLAKE3/" + hash, 400},
		{"/" + strings.Repeat("x", maxInstance+1) + "/cas/" + hash, 400},
		{"/\xff/cas/" + hash, 400},
	} {
		_, err := parsePath(test.path)
		if err == nil {
			t.Errorf("%q: got no error, want code %d", test.path, test.code)
		} else if got := statusOf(err); got != test.code {
			t.Errorf("%q: got code %d, want %d (%v)", test.path, got, test.code, err)
		}
	}
}

// A path that is taken has one canonical form, which means the same. One that is not has a code.
func FuzzParsePath(f *testing.F) {
	hash := strings.Repeat("0f", 32)
	for _, path := range []string{
		"/cas/" + hash, "/a/b/ac/blake3/" + hash, "//cas/sha256//" + hash + "/", "/healthz", "/status", "/metrics",
		"/cas/ac/cas/" + hash, "/cas/" + hash + "/1", "/\xff/cas/" + hash, "/cas/blake3", "/%2f/ac/" + hash, "/../cas/" + hash,
		"/gradle/team/" + hash, "/ccache//team/ac/" + hash + "/", "/nx/team", "/v1/cache/1", "/api/cache/cas/" + hash, "/api/metro/cache/x", "/turbo/./v8",
	} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		n, err := parsePath(path)
		if methods[n.route] == "" && dialects[n.route] == nil && n.route != routeOther {
			t.Fatalf("got route %q", n.route)
		}
		if err != nil {
			if code := statusOf(err); code != 400 && code != 404 {
				t.Fatalf("got code %d for %v", code, err)
			}
			return
		}
		if n.instance != strings.Trim(n.instance, "/") || strings.Contains(n.instance, "//") {
			t.Fatalf("got instance %q", n.instance)
		}
		again, err := parsePath(n.String())
		if err != nil || again != n {
			t.Fatalf("%q became %+v, and its canonical form %q %+v, %v", path, n, n, again, err)
		}
	})
}
