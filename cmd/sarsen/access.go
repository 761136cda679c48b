package main

import (
	"fmt"
	"os"

	"github.com/spf13/pflag"
	"google.golang.org/grpc"

	"github.com/sarsen-build/sarsen/client"
)

// accessText ends the help of a flag that names a server.
const accessText = "; SARSEN_TLS_CA, SARSEN_TLS_CERT, SARSEN_TLS_KEY, SARSEN_TOKEN and SARSEN_HEADER say how it is reached, as for gocacheprog"

// reach connects to a server as the variables say.
func reach(target client.Target, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	options, err := accessOfVariables().Options(target)
	if err != nil {
		return nil, err
	}
	return target.Connect(append(options, more...)...)
}

// addAccess adds the flags that say how a server is reached to f.
func addAccess(f *pflag.FlagSet, a *client.Access) {
	f.StringVar(&a.CA, "tls-ca", "", "trust the certificates in `FILE` instead of the system's; or SARSEN_TLS_CA")
	f.StringVar(&a.Cert, "tls-cert", "", "show the server the client certificate in `FILE`; or SARSEN_TLS_CERT")
	f.StringVar(&a.Key, "tls-key", "", "the `FILE` with its key; or SARSEN_TLS_KEY")
	f.StringVar(&a.Token, "token", "", "a token for the server, which other users of this machine can see here; or SARSEN_TOKEN")
	f.StringArrayVar(&a.Headers, "header", nil, "send `NAME=VALUE` with each call; may be given several times; or SARSEN_HEADER")
}

// accessVariables are what sets each of those flags that is not given.
var accessVariables = map[string]string{
	"tls-ca": "SARSEN_TLS_CA", "tls-cert": "SARSEN_TLS_CERT", "tls-key": "SARSEN_TLS_KEY", "token": "SARSEN_TOKEN", "header": "SARSEN_HEADER",
}

// setFromVariables sets the flags that were not given from variables, by flag.
func setFromVariables(f *pflag.FlagSet, variables map[string]string) error {
	for flag, variable := range variables {
		if value := os.Getenv(variable); value != "" && !f.Changed(flag) {
			if err := f.Set(flag, value); err != nil {
				return &usageError{fmt.Errorf("%s: %w", variable, err)}
			}
		}
	}
	return nil
}

// accessOfVariables returns what the variables alone say.
func accessOfVariables() client.Access {
	a := client.Access{
		CA: os.Getenv("SARSEN_TLS_CA"), Cert: os.Getenv("SARSEN_TLS_CERT"), Key: os.Getenv("SARSEN_TLS_KEY"), Token: os.Getenv("SARSEN_TOKEN"),
	}
	if h := os.Getenv("SARSEN_HEADER"); h != "" {
		a.Headers = []string{h}
	}
	return a
}
