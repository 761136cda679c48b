package main

import (
	"github.com/spf13/cobra"
)

func newUpCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a cache on this machine, with no configuration",
		Long: `Start everything on this machine with no configuration: the store, the gRPC server and the HTTP
server. Before it says 'ready', Sarsen writes, finds and reads back a blob and an action result through
both ports. Then it prints the lines for Bazel, and where the data lies.

Ctrl-C (or SIGTERM) finishes what is in flight and leaves a clean store, within 30 s. A second one
stops at once; the next start then recovers the store.`,
		Example: "  sarsen up\n  sarsen up --dir /var/cache/sarsen --max-size 50GB --grpc 0.0.0.0:8980",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := loadSettings(cmd, "")
			if err != nil {
				return err
			}
			return run(c, nil, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	addSettings(cmd)
	return cmd
}
