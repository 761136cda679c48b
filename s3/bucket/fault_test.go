package bucket_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/internal/s3fault"
	"github.com/sarsen-build/sarsen/internal/sim/explore"
	"github.com/sarsen-build/sarsen/internal/versitygw"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// TestEachFault: whatever becomes of the first request of a kind, the caller gets what there is, or an error that says that
// nothing is known; and a condition is never taken for met that is not.
func TestEachFault(t *testing.T) {
	server := versitygw.Start(t)
	good := open(t, server, nil)
	for _, f := range s3fault.All() {
		for _, method := range []string{http.MethodPut, http.MethodGet, http.MethodHead, http.MethodDelete, http.MethodPost} {
			t.Run(fmt.Sprint(f, method), func(t *testing.T) {
				t.Parallel() // most of the time is patience
				oneFault(t, server, good, f, method)
			})
		}
	}
}

func oneFault(t *testing.T, server *versitygw.Server, good bucket.Bucket, f s3fault.Fault, method string) {
	net := &s3fault.Transport{Next: http.DefaultTransport, Fault: func(r *http.Request, n int) s3fault.Fault {
		if r.Method == method && n == 0 {
			return f
		}
		return s3fault.None
	}}
	b := open(t, server, func(o *bucket.Options) { o.Transport = net })
	key := fmt.Sprint(f, method)
	data := []byte("some bytes of " + key)
	if _, err := put(t, b, key, data, bucket.Condition{}); err != nil {
		t.Errorf("%s: Put = %v", key, err)
	}
	net.Close()
	if got, o, err := b.Get(t.Context(), key, 0, -1); err != nil || !bytes.Equal(got, data) || o.Size != int64(len(data)) {
		t.Errorf("%s: Get = %q, %v", key, got, err)
	}
	if got, _, err := b.Get(t.Context(), key, 5, 6); err != nil || string(got) != string(data[5:11]) && f != s3fault.Flipped {
		t.Errorf("%s: Get of a part = %q, %v", key, got, err)
	}
	if o, err := b.Head(t.Context(), key); err != nil || o.Size != int64(len(data)) {
		t.Errorf("%s: Head = %+v, %v", key, o, err)
	}
	if p, err := b.List(t.Context(), key, ""); f != s3fault.Cut && (err != nil || len(p.Objects) != 1) {
		t.Errorf("%s: List = %+v, %v", key, p, err)
	}
	judgeConditions(t, good, b, key)
	if left, err := b.Delete(t.Context(), key, key+"none"); err != nil || len(left) > 0 {
		t.Errorf("%s: Delete = %v, %v", key, left, err)
	}
	net.Close()
	if p, err := good.List(t.Context(), key, ""); err != nil || len(p.Objects) != 1 { // the condition's
		t.Errorf("%s: after Delete: %v, %v", key, p.Objects, err)
	}
}

// judgeConditions: a Put on a condition that succeeds was done, and one that is not met does nothing.
func judgeConditions(t *testing.T, good, b bucket.Bucket, key string) {
	t.Helper()
	name := key + "-condition"
	_, err := put(t, b, name, []byte("first"), bucket.Condition{Absent: true})
	got, _, err2 := good.Get(t.Context(), name, 0, -1)
	switch {
	case err == nil && string(got) == "first":
	case errors.Is(err, bucket.ErrCondition): // another try of the same Put was met
	default:
		t.Errorf("%s: Put if absent = %v, and there is %q, %v", key, err, got, err2)
	}
	o, err := put(t, good, name, []byte("second"), bucket.Condition{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := put(t, b, name, []byte("third"), bucket.Condition{Absent: true}); !errors.Is(err, bucket.ErrCondition) {
		t.Errorf("%s: Put if absent of what is there = %v", key, err)
	}
	if _, err := put(t, b, name, []byte("fourth"), bucket.Condition{ETag: o.ETag}); err != nil && !errors.Is(err, bucket.ErrCondition) {
		t.Errorf("%s: Put if it is as it was = %v", key, err)
	}
	if got, _, err := good.Get(t.Context(), name, 0, -1); err != nil || string(got) == "third" {
		t.Errorf("%s: there is %q, %v", key, got, err)
	}
}

// TestNetwork: a register that is changed on conditions by two who read it loses no change, whatever the network does.
func TestNetwork(t *testing.T) {
	server := versitygw.Start(t)
	good := open(t, server, nil)
	explore.Each(t, 6, func(t *testing.T, seed uint64) {
		net := &s3fault.Transport{Next: http.DefaultTransport, Fault: s3fault.Seeded(seed, 6)}
		b := open(t, server, func(o *bucket.Options) { o.Transport, o.Attempts = net, 1+int(seed%3) })
		key := fmt.Sprint("register", seed)
		rng := rand.New(rand.NewPCG(seed, 3))
		count := map[byte]int{} // of changes that succeeded, by who made them
		for n := range 24 {
			who := byte('a' + rng.IntN(2))
			now, o, err := b.Get(t.Context(), key, 0, -1)
			when := bucket.Condition{ETag: o.ETag}
			if errors.Is(err, bucket.ErrNotFound) {
				when = bucket.Condition{Absent: true}
			} else if err != nil {
				continue
			}
			if _, err := put(t, b, key, fmt.Appendf(now, "%c%02d", who, n), when); err == nil {
				count[who]++
			}
		}
		net.Close()
		got, _, err := good.Get(t.Context(), key, 0, -1)
		if err != nil || len(got)%3 != 0 {
			t.Fatalf("the register is %q, %v", got, err)
		}
		for who, want := range count {
			if n := bytes.Count(got, []byte{who}); n < want {
				t.Errorf("%c was told of %d changes, and the register has %d: %s", who, want, n, got)
			}
		}
	})
}

// TestHangs: a server that does not answer is left, and asked again.
func TestHangs(t *testing.T) {
	server := versitygw.Start(t)
	hung := map[string]bool{}
	f := &faulty{next: http.DefaultTransport, do: func(_ int64, r *http.Request, next http.RoundTripper) (*http.Response, error) {
		if !hung[r.Method] {
			hung[r.Method] = true
			<-r.Context().Done()
			return nil, r.Context().Err()
		}
		return next.RoundTrip(r)
	}}
	b := open(t, server, func(o *bucket.Options) { o.Transport, o.TryLimit = f, 3*time.Second })
	if _, err := put(t, b, "k", []byte("x"), bucket.Condition{}); err != nil {
		t.Errorf("Put = %v", err)
	}
	if got, _, err := b.Get(t.Context(), "k", 0, -1); err != nil || string(got) != "x" {
		t.Errorf("Get = %q, %v", got, err)
	}
	if n := f.n.Load(); n < 4 {
		t.Errorf("%d requests, want two for each", n)
	}
}

// TestCompleteLost: an upload in parts that was completed, though the answer was lost, has succeeded.
func TestCompleteLost(t *testing.T) {
	server := versitygw.Start(t)
	lost := false
	f := &faulty{next: http.DefaultTransport, do: func(_ int64, r *http.Request, next http.RoundTripper) (*http.Response, error) {
		res, err := next.RoundTrip(r)
		if r.Method == http.MethodPost && r.URL.Query().Has("uploadId") && !lost {
			lost = true
			return answer(r, 500, "InternalError"), nil
		}
		return res, err
	}}
	b := open(t, server, func(o *bucket.Options) { o.Transport, o.PartSize = f, 5<<20 })
	data := bytes.Repeat([]byte("0123456789abcdef"), 6<<16)
	if o, err := put(t, b, "large", data, bucket.Condition{}); err != nil || o.Size != int64(len(data)) {
		t.Errorf("Put = %+v, %v", o, err)
	}
	if got, _, err := b.Get(t.Context(), "large", 0, -1); err != nil || !bytes.Equal(got, data) {
		t.Errorf("Get = %d bytes, %v", len(got), err)
	}
}

// TestPartsEnd: an upload in parts that fails leaves no parts behind; one that was killed is ended by Sweep.
func TestPartsEnd(t *testing.T) {
	server := versitygw.Start(t)
	killed := false
	others := make(chan bool, 2)
	f := &faulty{next: http.DefaultTransport, do: func(_ int64, r *http.Request, next http.RoundTripper) (*http.Response, error) {
		switch part := r.URL.Query().Get("partNumber"); {
		case part == "2": // when the others are there: one that comes after the abort would be Sweep's
			<-others
			<-others
			return answer(r, 400, "InvalidRequest"), nil
		case killed && r.Method == http.MethodDelete:
			return answer(r, 400, "InvalidRequest"), nil
		case part != "":
			defer func() { others <- true }()
		}
		return next.RoundTrip(r)
	}}
	b, good := open(t, server, func(o *bucket.Options) { o.Transport, o.PartSize = f, 5<<20 }), open(t, server, nil)
	data := make([]byte, 11<<20)
	for _, killed = range []bool{false, true} {
		if _, err := put(t, b, "c/large", data, bucket.Condition{}); err == nil {
			t.Error("Put = nil")
		}
		want := map[bool]int{true: 1}[killed]
		if n, err := good.Sweep(t.Context(), "c/", time.Now().Add(-time.Hour)); err != nil || n != 0 {
			t.Errorf("Sweep of what is older = %d, %v", n, err)
		}
		if n, err := good.Sweep(t.Context(), "c/", time.Now().Add(time.Hour)); err != nil || n != want && server.Dir != "" {
			t.Errorf("killed %v: Sweep = %d, %v, want %d", killed, n, err, want)
		}
	}
}

// TestStrangeAnswers: what a proxy makes of an answer is not taken for an object.
func TestStrangeAnswers(t *testing.T) {
	for name, handle := range map[string]http.HandlerFunc{
		"no length": func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, "0123456789")
		},
		"the whole": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "01") },
		"another part": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 2-3/10")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = io.WriteString(w, "23")
		},
		"other size": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 4-5/10")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = io.WriteString(w, "4")
		},
	} {
		server := httptest.NewServer(handle)
		b, err := bucket.Open(t.Context(), bucket.Options{Bucket: "b", Endpoint: server.URL, PathStyle: true, AccessKey: "k", SecretKey: "s", Attempts: 1})
		if err != nil {
			t.Fatal(err)
		}
		if got, o, err := b.Get(t.Context(), "k", 4, 2); !errors.Is(err, bucket.ErrDamaged) {
			t.Errorf("%s: Get = %q, %+v, %v, want ErrDamaged", name, got, o, err)
		}
		server.Close()
	}
}

// TestChecksumFirst: a body goes as it is, behind a header with its CRC32C, with TLS as without: not every server knows the
// coding in which a checksum can follow.
func TestChecksumFirst(t *testing.T) {
	for _, tls := range []bool{false, true} {
		var heads []http.Header
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			heads = append(heads, r.Header)
			if string(body) != "123456789" {
				t.Errorf("the body is %q", body)
			}
		}))
		o := bucket.Options{Bucket: "b", PathStyle: true, AccessKey: "k", SecretKey: "s", Attempts: 1}
		if tls {
			server.StartTLS()
			o.CA = x509.NewCertPool()
			o.CA.AddCert(server.Certificate())
		} else {
			server.Start()
		}
		o.Endpoint = server.URL
		b, err := bucket.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := put(t, b, "k", []byte("123456789"), bucket.Condition{}); err != nil {
			t.Errorf("Put = %v", err)
		}
		server.Close()
		sum := crc32.Checksum([]byte("123456789"), crc32.MakeTable(crc32.Castagnoli))
		if got := heads[0].Get("X-Amz-Checksum-Crc32c"); got != "4waSgw==" || sum != 0xe3069283 {
			t.Errorf("the checksum is %s", got)
		}
		if heads[0].Get("Content-Encoding")+heads[0].Get("X-Amz-Trailer") != "" || !strings.Contains(heads[0].Get("Authorization"), "x-amz-checksum-crc32c") {
			t.Errorf("the header is %v", heads[0])
		}
	}
}
