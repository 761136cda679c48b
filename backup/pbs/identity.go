package pbs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// An Identity is what clients know a server by: its certificate, and the key that signs tickets. Servers that share a
// Keeper know one another by its name, which no two have unless somebody copied that file.
type Identity struct {
	certificate tls.Certificate
	ticketKey   []byte
	name        string
}

// What the directory of an identity holds.
const (
	certificateFile = "server.pem" // the certificate and its key; another one may be put here
	ticketFile      = "ticket.key"
	nameFile        = "server.id" // not to be copied to another server
)

// validFor is for how long a certificate of our own is valid. Clients pin it, so nobody renews it.
const validFor = 100 * 365 * 24 * time.Hour

// LoadIdentity reads the identity in dir, and makes what is not there.
func LoadIdentity(dir string) (*Identity, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	certificate, err := readOrMake(filepath.Join(dir, certificateFile), newCertificate)
	if err != nil {
		return nil, err
	}
	id := &Identity{}
	if id.certificate, err = tls.X509KeyPair(certificate, certificate); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, certificateFile), err)
	}
	if id.ticketKey, err = readOrMake(filepath.Join(dir, ticketFile), random); err != nil {
		return nil, err
	}
	if len(id.ticketKey) != 32 {
		return nil, fmt.Errorf("%s has %d bytes, want 32; remove it to get a new one", filepath.Join(dir, ticketFile), len(id.ticketKey))
	}
	name, err := readOrMake(filepath.Join(dir, nameFile), random)
	if err == nil && len(name) != 32 {
		err = fmt.Errorf("%s has %d bytes, want 32; remove it to get a new one", filepath.Join(dir, nameFile), len(name))
	}
	if err != nil {
		return nil, err
	}
	id.name = hex.EncodeToString(name[:8])
	return id, nil
}

func random() ([]byte, error) {
	b := make([]byte, 32)
	_, err := rand.Read(b)
	return b, err
}

// readOrMake returns what a file holds. If there is none, it is made, whole.
func readOrMake(name string, fresh func() ([]byte, error)) ([]byte, error) {
	b, err := os.ReadFile(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	if b, err = fresh(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return nil, err
	}
	return b, os.Rename(name+".new", name)
}

func newCertificate() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	names := []string{"localhost"}
	if host, err := os.Hostname(); err == nil && host != "localhost" && host != "" {
		names = append(names, host)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: names[len(names)-1], Organization: []string{"Sarsen"}},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(validFor),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, DNSNames: names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...), nil
}

// Fingerprint returns the SHA-256 of the certificate in lower case with colons, as clients want it.
func (id *Identity) Fingerprint() string {
	sum := sha256.Sum256(id.certificate.Certificate[0])
	parts := make([]string, len(sum))
	for i := range sum {
		parts[i] = hex.EncodeToString(sum[i : i+1])
	}
	return strings.Join(parts, ":")
}

// tlsConfig offers HTTP/1.1 only: the upgrade to a protocol comes in its terms, and HTTP/2 after it.
func (id *Identity) tlsConfig() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{id.certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
}
