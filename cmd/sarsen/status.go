package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"
)

// statusWithin is how long a server may take to say how it is.
const statusWithin = 10 * time.Second

func newStatusCommand() *cobra.Command {
	var server string
	cmd := &cobra.Command{
		Use:   "status [--server http://HOST:PORT]",
		Short: "Show how a running server is",
		Long: `Print what a running server says of itself, as JSON: its version, addresses, the store's numbers and,
where it serves Proxmox backups, the certificate's fingerprint.`,
		Example: "  sarsen status --server http://127.0.0.1:8981",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), statusWithin)
			defer cancel()
			return printStatus(ctx, server, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&server, "server", "http://127.0.0.1:8981", "the HTTP address of a running server")
	return cmd
}

func printStatus(ctx context.Context, server string, out io.Writer) error {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return &usageError{fmt.Errorf("--server %q is not the address of an HTTP port; write http://HOST:PORT, like http://127.0.0.1:8981", server)}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.JoinPath("status").String(), nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return explainSilence(server, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s: %s", server, answer.Status, bytes.TrimSpace(text))
	}
	_, err = out.Write(text)
	return err
}
