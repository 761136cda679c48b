package main

import (
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"
)

func newUpCommand() *cobra.Command {
	w := workerSettings{name: hostName(), maxSize: 10e9}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a cache and a worker on this machine, with no configuration",
		Long: `Start everything on this machine with no configuration: the store, the gRPC server, the HTTP server
and a worker that runs actions. Before it says 'ready', Sarsen writes, finds and reads back a blob and an action result through
both ports. Then it prints the lines for Bazel, and where the data lies.

restic backs up to rest:http://HOST:PORT/restic/NAME/ of the HTTP server, casync and desync to
http://HOST:PORT/casync/NAME/. Whoever can reach it may use any NAME, unless --backups says which
there are, with their tokens: 'sarsen serve --help'.

Ctrl-C (or SIGTERM) finishes what is in flight and leaves a clean store, within 30 s. A second one
stops at once; the next start then recovers the store.`,
		Example: "  sarsen up\n  sarsen up --dir /var/cache/sarsen --max-size 50GB --grpc 0.0.0.0:8980",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := loadSettings(cmd, "")
			if err != nil {
				return err
			}
			w.dir = filepath.Join(c.Dir, "worker")
			return run(c, nil, &w, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	addSettings(cmd)
	cmd.Flags().IntVar(&w.slots, "worker-slots", runtime.NumCPU(), "how many actions run at once on this machine; 0 for none")
	cmd.Flags().StringVar(&w.sandbox, "sandbox", "auto", "how actions run: auto, strict or none; see 'sarsen worker --help'")
	cmd.Flags().BoolVar(&w.chroot, "chroot", false, "the input root is / for actions, as BuildStream wants it; see 'sarsen worker --help'")
	complete(cmd, "sandbox", "auto", "strict", "none")
	return cmd
}
