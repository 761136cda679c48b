package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sarsen-build/sarsen/digest"
)

// TestGocacheprogAccess has flags and variables that say what a server wants to see.
func TestGocacheprogAccess(t *testing.T) {
	seen := make(chan metadata.MD, 1)
	s := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(stream.Context())
		seen <- md
		return status.Error(codes.NotFound, "nothing is here")
	}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	defer s.Stop()
	t.Setenv("SARSEN_TOKEN", "secret")
	t.Setenv("SARSEN_HEADER", "X-Not=this")
	run := func(args ...string) error {
		cmd := newGocacheprogCommand()
		cmd.SetArgs(append(args, "--dir", t.TempDir()))
		action := base64.StdEncoding.EncodeToString(make([]byte, 32))
		cmd.SetIn(strings.NewReader(fmt.Sprintf("{\"ID\":1,\"Command\":\"get\",\"ActionID\":%q}\n{\"ID\":2,\"Command\":\"close\"}\n", action)))
		cmd.SetOut(new(bytes.Buffer))
		cmd.SetErr(new(bytes.Buffer))
		cmd.SilenceUsage = true
		return cmd.Execute()
	}
	if err := run("--server", l.Addr().String(), "--header", "X-Team=a"); err != nil {
		t.Fatal(err)
	}
	md := <-seen
	if got := fmt.Sprint(md["authorization"], md["x-team"], md["x-not"]); got != "[Bearer secret] [a] []" {
		t.Errorf("got %s", got)
	}
	t.Setenv("SARSEN_TLS_CA", "/none")
	if err := run("--server", "grpcs://"+l.Addr().String()); err == nil || !strings.Contains(err.Error(), "/none") {
		t.Errorf("got %v, want an error about the file", err)
	}
}

// TestCCAccess has settings of sarsen cc, and variables before them.
func TestCCAccess(t *testing.T) {
	dir := t.TempDir()
	settings := "remote: grpcs://127.0.0.1:1\nremote_tls_ca: /ca\nremote_tls_cert: /cert\nremote_tls_key: /key\nremote_token: secret\n"
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	for variable, want := range map[string]string{"": "/ca", "/other": "/other"} {
		t.Setenv("SARSEN_TLS_CA", variable)
		if _, _, err := compilerOptions(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("SARSEN_TLS_CA=%s: got %v, want an error about %s", variable, err, want)
		}
	}
	t.Setenv("SARSEN_TLS_KEY", "/other")
	got := ccSettings{CA: "/ca", Cert: "/cert", Key: "/key", Token: "secret"}.access()
	if got.Cert != "" || got.Key != "/other" || got.Token != "secret" {
		t.Errorf("got %+v, want the variable's key without the setting's certificate", got)
	}
}

// TestEveryClientAccess has a file of certificates that is not there, which each command that is a client looks for.
func TestEveryClientAccess(t *testing.T) {
	t.Setenv("SARSEN_TLS_CA", "/none")
	const server = "grpcs://127.0.0.1:1"
	for _, args := range [][]string{
		{"get", "--server", server, digest.SHA256.Of([]byte("x")).String()},
		{"put", "--server", server, "access_test.go"},
		{"workers", "--server", server},
		{"worker", "--scheduler", server, "--dir", t.TempDir()},
	} {
		cmd := newRootCommand()
		cmd.SetArgs(args)
		cmd.SetOut(new(bytes.Buffer))
		cmd.SetErr(new(bytes.Buffer))
		if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), "/none") {
			t.Errorf("%s: got %v, want an error about the file", args[0], err)
		}
	}
}
