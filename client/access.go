package client

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/sarsen-build/sarsen/internal/tlsfiles"
)

// An Access is how a server is known to be the right one, and what it wants to see. The zero value trusts the
// system's certificates and shows nothing.
type Access struct {
	CA        string   // file of the certificates, in PEM, that are trusted instead of the system's
	Cert, Key string   // files of the client's own certificate and key, in PEM
	Token     string   // sent as authorization: Bearer TOKEN, in clear to a grpc:// server
	Headers   []string // NAME=VALUE, sent with each call
}

// Options returns what Connect needs to reach t so. The files are for grpcs:// alone.
func (a Access) Options(t Target) ([]grpc.DialOption, error) {
	var options []grpc.DialOption
	if t.TLS {
		config, err := tlsfiles.Client(a.CA, a.Cert, a.Key)
		if err != nil {
			return nil, err
		}
		options = append(options, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	}
	shown := shown{}
	if a.Token != "" {
		shown["authorization"] = "Bearer " + a.Token
	}
	for _, h := range a.Headers {
		name, value, ok := strings.Cut(h, "=")
		if name = strings.ToLower(name); !ok || !isHeader(name) {
			return nil, fmt.Errorf("header %.40q: want NAME=VALUE, with letters, digits, hyphens, dots and underscores in NAME", name)
		}
		shown[name] = value
	}
	for name, value := range shown {
		// Without the value, which may be secret.
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) && !strings.HasSuffix(name, "-bin") {
			return nil, fmt.Errorf("header %s: the value is not printable ASCII", name)
		}
	}
	if len(shown) > 0 {
		options = append(options, grpc.WithPerRPCCredentials(shown))
	}
	return options, nil
}

// isHeader reports whether gRPC can send a header of that name, and it is none of its own.
func isHeader(name string) bool {
	return name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == "" && !strings.HasPrefix(name, "grpc-")
}

// A shown header goes with each call, over whatever connection the user chose.
type shown map[string]string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (s shown) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return s, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (shown) RequireTransportSecurity() bool { return false }
