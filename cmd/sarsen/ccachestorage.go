package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/sarsen-build/sarsen/ccachestorage"
)

const ccacheStorageHelp = `Be what ccache 4.13 and later calls a storage helper: all ccache processes of a user ask it over a unix
socket, and it asks an HTTP or HTTPS server over connections that it keeps. A server that does not answer
is not asked for a while, so that no build waits for it again and again.

ccache starts it by itself if it finds it as ccache-storage-https (or ccache-storage-http, which it then
prefers to its own HTTP storage) in the PATH:

  ln -s "$(command -v sarsen)" /usr/local/bin/ccache-storage-https
  ccache -o remote_storage='https://cache.example/ccache/team'

@bearer-token=TOKEN, @header=NAME=VALUE and @layout=subdirs|flat|bazel may follow that URL, and user and
password may be in it. Entries are the same as those of ccache's own HTTP storage. @tls-ca=FILE trusts the
certificates in FILE instead of the system's; @tls-cert=FILE and @tls-key=FILE show the server one. Without
them SARSEN_TLS_CA, SARSEN_TLS_CERT and SARSEN_TLS_KEY hold.

Started by hand, it listens on --socket for ccache -o remote_storage=crsh:/SOCKET, until 'ccache
--stop-storage-helpers', a signal, or --idle-timeout.`

func newCcacheStorageCommand() *cobra.Command {
	var socket string
	var bearer, layout, ca, cert, key string
	var headers []string
	var o ccachestorage.Options
	cmd := &cobra.Command{
		Use:     "ccache-storage --socket FILE URL",
		Short:   "Reach a cache for ccache over HTTPS (its storage helper)",
		Long:    ccacheStorageHelp,
		Example: "  sarsen ccache-storage --socket /run/user/1000/ccache.sock http://127.0.0.1:8981/ccache/team",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if socket == "" {
				return &usageError{fmt.Errorf("--socket is needed: where ccache is told to connect, with crsh:/SOCKET")}
			}
			attributes := []ccachestorage.Attribute{
				{Name: "layout", Value: layout}, {Name: "tls-ca", Value: ca}, {Name: "tls-cert", Value: cert}, {Name: "tls-key", Value: key},
			}
			if bearer != "" {
				attributes = append(attributes, ccachestorage.Attribute{Name: "bearer-token", Value: bearer})
			}
			for _, h := range headers {
				attributes = append(attributes, ccachestorage.Attribute{Name: "header", Value: h})
			}
			var err error
			if o.Remote, err = ccachestorage.NewRemote(args[0], attributes); err != nil {
				return &usageError{err}
			}
			if o.Socket, err = filepath.Abs(socket); err != nil {
				return err
			}
			return serveCcacheStorage(cmd.Context(), o, func() {
				fmt.Fprintf(cmd.OutOrStdout(), "sarsen ccache-storage is ready: crsh:%s\n", o.Socket)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&socket, "socket", "", "the unix socket to listen on")
	f.StringVar(&layout, "layout", "subdirs", "how the server names entries: subdirs, flat or bazel; Sarsen takes them all for one")
	f.StringVar(&bearer, "bearer-token", os.Getenv("SARSEN_TOKEN"), "a token for the server; or SARSEN_TOKEN")
	f.StringArrayVar(&headers, "header", nil, "NAME=VALUE to send with each request; may be given several times")
	f.StringVar(&ca, "tls-ca", os.Getenv("SARSEN_TLS_CA"), "trust the certificates in `FILE` instead of the system's; or SARSEN_TLS_CA")
	f.StringVar(&cert, "tls-cert", os.Getenv("SARSEN_TLS_CERT"), "show the server the client certificate in `FILE`; or SARSEN_TLS_CERT")
	f.StringVar(&key, "tls-key", os.Getenv("SARSEN_TLS_KEY"), "the `FILE` with its key; or SARSEN_TLS_KEY")
	f.DurationVar(&o.IdleTimeout, "idle-timeout", 0, "end after so long without a client; 0 is never")
	f.DurationVar(&o.Timeout, "timeout", 3*time.Second, "how long the server may take to answer")
	f.SortFlags = false
	f.Lookup("bearer-token").DefValue = "" // help must not show what the variable holds
	complete(cmd, "layout", "subdirs", "flat", "bazel")
	return cmd
}

func serveCcacheStorage(ctx context.Context, o ccachestorage.Options, ready func()) error {
	ctx, cancel := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer cancel()
	o.Identity = "sarsen " + shortVersion()
	s, err := ccachestorage.Listen(o)
	if err != nil {
		return fmt.Errorf("can't listen for ccache: %w", err)
	}
	ready()
	return s.Serve(ctx)
}

// isCcacheStorage reports whether ccache started this process: by a name that it looks for, or as its helper=.
func isCcacheStorage() bool {
	return strings.HasPrefix(filepath.Base(os.Args[0]), "ccache-storage-") || len(os.Args) == 1 && os.Getenv("CRSH_IPC_ENDPOINT") != ""
}

// runCcacheStorage does what ccache says in variables. Nobody sees its output.
func runCcacheStorage() error {
	o, err := ccacheStorageOptions(os.Getenv)
	if err != nil {
		return err
	}
	return serveCcacheStorage(context.Background(), o, func() {})
}

// maxAttributes is how many attributes ccache may pass on.
const maxAttributes = 1000

func ccacheStorageOptions(get func(string) string) (o ccachestorage.Options, err error) {
	if o.Socket = get("CRSH_IPC_ENDPOINT"); o.Socket == "" {
		return o, fmt.Errorf("ccache starts this program as its storage helper; by hand, it is 'sarsen ccache-storage'")
	}
	number := func(name string, most int) int {
		n, wrong := strconv.Atoi(get(name))
		if wrong != nil || n < 0 || n > most {
			err = fmt.Errorf("%s=%q: want a number up to %d", name, get(name), most)
		}
		return n
	}
	const century = 100 * 365 * 24 * 3600
	o.IdleTimeout = time.Duration(number("CRSH_IDLE_TIMEOUT", century)) * time.Second
	n := number("CRSH_NUM_ATTR", maxAttributes)
	if err != nil {
		return o, err
	}
	attributes := []ccachestorage.Attribute{
		{Name: "tls-ca", Value: get("SARSEN_TLS_CA")}, {Name: "tls-cert", Value: get("SARSEN_TLS_CERT")}, {Name: "tls-key", Value: get("SARSEN_TLS_KEY")},
	}
	for i := range n {
		attributes = append(attributes, ccachestorage.Attribute{
			Name: get(fmt.Sprintf("CRSH_ATTR_KEY_%d", i)), Value: get(fmt.Sprintf("CRSH_ATTR_VALUE_%d", i)),
		})
	}
	if o.Remote, err = ccachestorage.NewRemote(get("CRSH_URL"), attributes); err != nil {
		o.Remote = ccachestorage.Unusable(err)
	}
	return o, nil
}
