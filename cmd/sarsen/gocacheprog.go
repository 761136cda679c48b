package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/sarsen-build/sarsen/client"
	"github.com/sarsen-build/sarsen/config"
	"github.com/sarsen-build/sarsen/gocache"
)

const gocacheprogHelp = `Keep the go command's build cache in a directory and at a server. The go command starts this program:

  go env -w GOCACHEPROG="sarsen gocacheprog --server grpc://cache:8980"

What is built is kept in --dir, which any number of go commands share, and sent to the server in the
background. What is not in --dir comes from the server. Any Remote Execution API server will do. With
--server none there is the directory alone.

No build fails for it: while the server is away, slow or full, there is the directory; where the directory
can't be written, a temporary one. At its end a go command waits for uploads, for --flush at most, and not
at all for a server that is away.

Outputs that nobody used for five days go, as in Go's own cache, and before that those that were used
longest ago when all are more than --max-size. What was used in the last ten minutes, or since the oldest
go command that still runs began, stays in any case.

Each flag can be given by the variable that its help names, since GOCACHEPROG can hold no variables.`

// A gocacheprog is what the flags say.
type gocacheprog struct {
	server, instance, dir, maxSize string
	access                         client.Access
	timeout, flush                 time.Duration
	readOnly, verbose              bool
}

func newGocacheprogCommand() *cobra.Command {
	var g gocacheprog
	cmd := &cobra.Command{
		Use:     "gocacheprog",
		Short:   "Keep the go command's build cache (GOCACHEPROG)",
		Long:    gocacheprogHelp,
		Example: "  GOCACHEPROG='sarsen gocacheprog --server grpcs://cache.example:443' go build ./...\n  SARSEN_SERVER=grpc://cache:8980 GOCACHEPROG='sarsen gocacheprog --verbose' go test ./...",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, variables := range []map[string]string{gocacheVariables, accessVariables} {
				if err := setFromVariables(cmd.Flags(), variables); err != nil {
					return err
				}
			}
			return g.run(cmd)
		},
	}
	f := cmd.Flags()
	f.StringVar(&g.server, "server", "grpc://127.0.0.1:8980", "the server: grpc://HOST:PORT, grpcs://HOST:PORT for TLS, or none; or SARSEN_SERVER")
	f.StringVar(&g.instance, "instance", "", "the instance name under which entries are kept; or SARSEN_INSTANCE")
	addAccess(f, &g.access)
	f.StringVar(&g.dir, "dir", "", "where outputs are kept (default: beside Go's own cache); or SARSEN_GOCACHE_DIR")
	f.StringVar(&g.maxSize, "max-size", "10GB", "how much disk they may take; or SARSEN_GOCACHE_MAX_SIZE")
	f.DurationVar(&g.timeout, "timeout", 3*time.Second, "how long the server may take to answer; or SARSEN_GOCACHE_TIMEOUT")
	f.DurationVar(&g.flush, "flush", 30*time.Second, "how long a go command waits for uploads at its end; or SARSEN_GOCACHE_FLUSH")
	f.BoolVar(&g.readOnly, "read-only", false, "upload nothing; or SARSEN_GOCACHE_READ_ONLY=true")
	f.BoolVar(&g.verbose, "verbose", false, "say on standard error what was found, and what is wrong; or SARSEN_GOCACHE_VERBOSE=true")
	f.SortFlags = false
	_ = cmd.MarkFlagDirname("dir")
	return cmd
}

// gocacheVariables are what sets each flag that is not given.
var gocacheVariables = map[string]string{
	"server": "SARSEN_SERVER", "instance": "SARSEN_INSTANCE", "dir": "SARSEN_GOCACHE_DIR", "max-size": "SARSEN_GOCACHE_MAX_SIZE",
	"timeout": "SARSEN_GOCACHE_TIMEOUT", "flush": "SARSEN_GOCACHE_FLUSH",
	"read-only": "SARSEN_GOCACHE_READ_ONLY", "verbose": "SARSEN_GOCACHE_VERBOSE",
}

func (g *gocacheprog) run(cmd *cobra.Command) error {
	// Ctrl-C reaches the go command too, which then closes.
	signal.Ignore(os.Interrupt)
	log := slog.New(slog.DiscardHandler)
	if g.verbose {
		log = slog.New(newTerminalHandler(cmd.ErrOrStderr(), slog.LevelDebug))
	}
	o := gocache.Options{
		Dir: cmp.Or(g.dir, defaultGocacheDir()), GoCache: goCache(), Instance: g.instance, ReadOnly: g.readOnly,
		Timeout: g.timeout, Flush: g.flush, Log: log,
	}
	var err error
	if o.MaxSize, err = config.ParseSize(g.maxSize); err != nil {
		return &usageError{fmt.Errorf("--max-size: %w", err)}
	}
	if g.server != "none" {
		target, err := client.ParseTarget(g.server)
		if err != nil {
			return &usageError{fmt.Errorf("--server: %w", err)}
		}
		access, err := g.access.Options(target)
		if err != nil {
			return &usageError{fmt.Errorf("--server: %w", err)}
		}
		conn, err := target.Connect(access...)
		if err != nil {
			return err
		}
		defer conn.Close()
		o.Conn = conn
	}
	c := gocache.Open(o)
	begun := time.Now()
	trim, err := c.Serve(context.WithoutCancel(cmd.Context()), cmd.InOrStdin(), cmd.OutOrStdout())
	if s := c.Stats(); g.verbose {
		fmt.Fprintf(cmd.ErrOrStderr(), "sarsen gocacheprog: %d hits here, %d from the server, %d misses; %d puts, %d uploaded, %d not; %s\n",
			s.Local, s.Remote, s.Misses, s.Puts, s.Uploaded, s.Dropped, time.Since(begun).Round(time.Millisecond))
	}
	// The go command waits for the end of the one, and who started it for that of the other.
	for _, w := range []io.Writer{cmd.OutOrStdout(), cmd.ErrOrStderr()} {
		if f, ok := w.(*os.File); ok && err == nil {
			f.Close()
		}
	}
	trim()
	return err
}

// goCache returns GOCACHE, which the go command gives to those whom it starts, or "".
func goCache() string {
	if dir := os.Getenv("GOCACHE"); filepath.IsAbs(dir) {
		return filepath.Clean(dir)
	}
	return ""
}

// defaultGocacheDir returns a folder beside GOCACHE.
func defaultGocacheDir() string {
	if dir := goCache(); dir != "" {
		return dir + "-sarsen"
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return filepath.Join(os.TempDir(), fmt.Sprintf("sarsen-go-build-%d", os.Getuid()))
	}
	return filepath.Join(dir, "go-build-sarsen")
}
