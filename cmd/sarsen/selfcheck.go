package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/client"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/upstream"
)

// checkInstance keeps the check's results apart from everybody's.
const checkInstance = "sarsen-self-check"

// checkWithin bounds the whole check. A disk that needs longer for two small blobs is not ready.
const checkWithin = time.Minute

// A checker is a client of both ports, as it would be on another machine.
type checker struct {
	grpc *client.Client
	http *http.Client
	base string // of the HTTP port's URLs
}

// selfCheck puts, finds and reads back a blob and an action result, over gRPC and HTTP: what one
// port stored is read through the other.
//
// A store that is full of leased blobs refuses the check's blob as it refuses everybody's. It still
// serves what it has, so that is a warning.
func selfCheck(ctx context.Context, grpcAddr, httpAddr string, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	c, err := newChecker(ctx, grpcAddr, httpAddr)
	if err != nil {
		return err
	}
	defer c.close()
	began := time.Now()
	for _, over := range []struct {
		name      string
		put       func(ctx context.Context, d digest.Digest, data []byte) error
		putResult func(ctx context.Context, action digest.Digest, r *repb.ActionResult) error
	}{
		{"gRPC", c.putBlob, c.grpc.PutResult},
		{"HTTP", c.putBlobHTTP, c.putResultHTTP},
	} {
		// Fresh bytes, so that this start writes and does not find what an earlier one wrote.
		data := []byte("sarsen self check " + uuid.NewString())
		d := digest.SHA256.Of(data)
		result := &repb.ActionResult{StdoutDigest: upstream.ToProto(d)}
		err := over.put(ctx, d, data)
		if err == nil {
			err = over.putResult(ctx, d, result)
		}
		if isFull(err) {
			log.Warn("the store takes nothing new now, so the self check is left out", "err", err)
			return nil
		}
		if err == nil {
			err = c.verify(ctx, d, data, result)
		}
		if err != nil {
			return fmt.Errorf("the self check failed, so nothing is served: what was put over %s: %w", over.name, err)
		}
	}
	log.Info("self check passed", "took", time.Since(began).Round(time.Millisecond))
	return nil
}

func newChecker(ctx context.Context, grpcAddr, httpAddr string) (*checker, error) {
	// Both ports are on this machine: a proxy from the environment can't be meant.
	c, err := client.Dial(ctx, grpcAddr, checkInstance, grpc.WithNoProxy())
	if err != nil {
		return nil, err
	}
	return &checker{
		grpc: c,
		http: &http.Client{Transport: &http.Transport{Proxy: nil}},
		base: "http://" + httpAddr,
	}, nil
}

func (c *checker) close() {
	c.http.CloseIdleConnections()
	_ = c.grpc.Close()
}

// verify finds and reads back a blob and a result whose action has the blob's digest, through both
// ports.
func (c *checker) verify(ctx context.Context, d digest.Digest, data []byte, result *repb.ActionResult) error {
	missing, err := c.grpc.Missing(ctx, digest.SetOf(d))
	if err != nil {
		return fmt.Errorf("finding the blob over gRPC: %w", err)
	}
	if missing.Len() != 0 {
		return errors.New("finding the blob over gRPC: the server says that it is missing")
	}
	got, err := c.grpc.Bytes(ctx, d)
	if err := differs(got, data, err); err != nil {
		return fmt.Errorf("reading the blob over gRPC: %w", err)
	}
	got, err = c.do(ctx, http.MethodGet, "/cas/"+d.Hex(), nil)
	if err := differs(got, data, err); err != nil {
		return fmt.Errorf("reading the blob over HTTP: %w", err)
	}
	found, err := c.grpc.Result(ctx, d)
	if err != nil {
		return fmt.Errorf("reading the action result over gRPC: %w", err)
	}
	if !proto.Equal(found.GetStdoutDigest(), result.GetStdoutDigest()) {
		return errors.New("reading the action result over gRPC: got another one than was put")
	}
	text, err := c.do(ctx, http.MethodGet, "/"+checkInstance+"/ac/"+d.Hex(), nil)
	if err != nil {
		return fmt.Errorf("reading the action result over HTTP: %w", err)
	}
	var over repb.ActionResult
	if err := proto.Unmarshal(text, &over); err != nil || !proto.Equal(over.GetStdoutDigest(), result.GetStdoutDigest()) {
		return errors.New("reading the action result over HTTP: got another one than was put")
	}
	return nil
}

func differs(got, want []byte, err error) error {
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("got %d bytes that are not the %d that were put", len(got), len(want))
	}
	return err
}

func (c *checker) putBlob(ctx context.Context, d digest.Digest, data []byte) error {
	return c.grpc.Put(ctx, d, bytes.NewReader(data))
}

func (c *checker) putBlobHTTP(ctx context.Context, d digest.Digest, data []byte) error {
	_, err := c.do(ctx, http.MethodPut, "/cas/"+d.Hex(), data)
	return err
}

func (c *checker) putResultHTTP(ctx context.Context, action digest.Digest, r *repb.ActionResult) error {
	data, err := proto.Marshal(r)
	if err != nil {
		return err
	}
	_, err = c.do(ctx, http.MethodPut, "/"+checkInstance+"/ac/"+action.Hex(), data)
	return err
}

// A httpError is an answer that is no success.
type httpError struct {
	code int
	text string
}

func (e *httpError) Error() string { return "HTTP status " + strconv.Itoa(e.code) + ": " + e.text }

// do makes one HTTP request and returns the answer's body, which is small.
func (c *checker) do(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	answer, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return nil, &httpError{answer.StatusCode, string(bytes.TrimSpace(data))}
	}
	return data, nil
}

// isFull reports whether err is a full store's refusal, in either protocol.
func isFull(err error) bool {
	var answer *httpError
	if errors.As(err, &answer) {
		return answer.code == http.StatusInsufficientStorage
	}
	return status.Code(err) == codes.ResourceExhausted
}
