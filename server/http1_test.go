package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sarsen-build/sarsen/digest"
)

// TestHTTP1 sends what HTTP clients send, and wants an answer that says where to go.
func TestHTTP1(t *testing.T) {
	r := newRig(t, func(o *Options) { o.HTTPAddr = func() string { return "127.0.0.1:8981" } })
	d := digest.SHA256.Of([]byte("x")).Hex()
	for _, tt := range []struct{ method, path, body string }{
		{"GET", "/cas/" + d, ""},
		{"HEAD", "/ac/" + d, ""},
		{"PUT", "/i/cas/" + d, "x"},
		{"PUT", "/cas/" + d, string(pattern(4<<20, 1))}, // its sender must get to read the answer all the same
		{"PROPFIND", "/", ""},
	} {
		req, err := http.NewRequestWithContext(r.ctx, tt.method, "http://"+r.addr+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Errorf("%s %s: %v", tt.method, tt.path, err)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		want := "this is the gRPC port; HTTP caches are at http://127.0.0.1:8981\n"
		if tt.method == "HEAD" {
			want = ""
		}
		if err != nil || resp.StatusCode != 400 || string(body) != want || !resp.Close {
			t.Errorf("%s %s: got %d %q (close %v), %v, want 400 %q and the connection closed", tt.method, tt.path, resp.StatusCode, body, resp.Close, err, want)
		}
	}
	if got := testutil.ToFloat64(r.server.metrics.wrongPort); got != 5 {
		t.Errorf("counted: got %v, want 5", got)
	}
}

// TestHTTP1WithoutPort checks the answer when there is no HTTP port.
func TestHTTP1WithoutPort(t *testing.T) {
	r := newRig(t)
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET / HTTP/1.0\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	if want := "this is the gRPC port; use grpc://" + r.addr + "\n"; string(body) != want {
		t.Errorf("got %q, want %q", body, want)
	}
}

// TestSilentConnection checks that a connection which says nothing holds up no other, and that one
// which says something else than HTTP is closed.
func TestSilentConnection(t *testing.T) {
	r := newRig(t)
	for range 3 {
		silent, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
	}
	slow, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	io.WriteString(slow, "PR")
	if _, err := r.caps.GetCapabilities(r.ctx, &repb.GetCapabilitiesRequest{}); err != nil {
		t.Fatal(err)
	}
	tls, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer tls.Close()
	tls.Write([]byte{0x16, 3, 1, 2, 0, 1})
	tls.SetReadDeadline(time.Now().Add(time.Minute))
	if n, err := tls.Read(make([]byte, 1)); n != 0 || err == nil || err.(interface{ Error() string }).Error() == "i/o timeout" {
		t.Errorf("TLS: got %d bytes, %v, want the connection closed", n, err)
	}
	// A preface that comes in pieces is one all the same.
	io.WriteString(slow, "I * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	slow.SetReadDeadline(time.Now().Add(time.Minute))
	head := make([]byte, 9)
	if _, err := io.ReadFull(slow, head); err != nil || head[3] != 4 {
		t.Errorf("preface in pieces: got %x, %v, want a SETTINGS frame", head, err)
	}
}
