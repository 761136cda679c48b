// Package tlsfiles makes the TLS configuration of a client from the files that its user names.
package tlsfiles

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// Client returns the configuration of a client that trusts the certificates in the file ca, or the system's if that
// is "", and shows the certificate in the file cert, whose key is in the file key, if those are not "". All are PEM.
func Client(ca, cert, key string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		text, err := os.ReadFile(ca)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s: there is no certificate in PEM in it", ca)
		}
	}
	if (cert == "") != (key == "") {
		return nil, errors.New("a client's certificate and its key go together")
	}
	if cert == "" {
		return c, nil
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s, %s: %w", cert, key, err)
	}
	c.Certificates = []tls.Certificate{pair}
	return c, nil
}
