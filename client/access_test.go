package client

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A guarded server wants a client's certificate, a token and a header.
type guarded struct {
	repb.UnimplementedCapabilitiesServer
}

func (guarded) GetCapabilities(ctx context.Context, _ *repb.GetCapabilitiesRequest) (*repb.ServerCapabilities, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if !slices.Equal(md["authorization"], []string{"Bearer secret"}) || !slices.Equal(md["x-team"], []string{"a=b"}) {
		return nil, status.Errorf(codes.Unauthenticated, "got %v", md)
	}
	return &repb.ServerCapabilities{}, nil
}

// certificate makes a certificate that signs itself, for servers and clients on this machine, and its files.
func certificate(t *testing.T) (cert tls.Certificate, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	certFile, keyFile = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	for name, data := range map[string][]byte{certFile: certPEM, keyFile: keyPEM} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if cert, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		t.Fatal(err)
	}
	return cert, certFile, keyFile
}

// TestAccess reaches a server that wants all of it, and fails without each part.
func TestAccess(t *testing.T) {
	cert, certFile, keyFile := certificate(t)
	_, otherFile, _ := certificate(t)
	pool := x509.NewCertPool()
	pool.AddCert(cert.Leaf)
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool})))
	repb.RegisterCapabilitiesServer(s, guarded{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	defer s.Stop()
	good := Access{CA: certFile, Cert: certFile, Key: keyFile, Token: "secret", Headers: []string{"X-Team=a=b"}}
	for what, test := range map[string]struct {
		change func(*Access)
		want   codes.Code
	}{
		"all":            {func(*Access) {}, codes.OK},
		"no CA":          {func(a *Access) { a.CA = "" }, codes.Unavailable},
		"another CA":     {func(a *Access) { a.CA = otherFile }, codes.Unavailable},
		"no certificate": {func(a *Access) { a.Cert, a.Key = "", "" }, codes.Unavailable},
		"no token":       {func(a *Access) { a.Token = "" }, codes.Unauthenticated},
		"no header":      {func(a *Access) { a.Headers = nil }, codes.Unauthenticated},
	} {
		a := good
		test.change(&a)
		target := Target{Address: l.Addr().String(), TLS: true}
		options, err := a.Options(target)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		conn, err := target.Connect(options...)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		_, err = repb.NewCapabilitiesClient(conn).GetCapabilities(t.Context(), &repb.GetCapabilitiesRequest{})
		if got := status.Code(err); got != test.want {
			t.Errorf("%s: got %v, want %v", what, err, test.want)
		}
		conn.Close()
	}
	for what, a := range map[string]Access{
		"no such file": {CA: filepath.Join(t.TempDir(), "none")}, "no certificate": {CA: keyFile}, "a certificate without its key": {Cert: certFile},
		"another's key": {Cert: otherFile, Key: keyFile}, "no value": {Headers: []string{"a"}}, "no name": {Headers: []string{"=a"}},
		"a reserved name": {Headers: []string{"grpc-timeout=1"}}, "a space": {Headers: []string{"a b=c"}}, "a line's end": {Token: "a\n"},
	} {
		if _, err := a.Options(Target{TLS: true}); err == nil {
			t.Errorf("%s: got no error", what)
		}
	}
}
