package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sarsen-build/sarsen/compiler"
)

// The files that the launcher gives a daemon.
const (
	socketFile = 3
	lockFile   = 4
)

const ccHelp = `Compile with a cache: sarsen cc gcc -c x.c -o x.o`

func newCCCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cc COMPILER ARGUMENT...",
		Short: "Compile with a cache",
		Long:  ccHelp,
	}
	daemon := cmd.Flags().String("daemon", "", "")
	cmd.Flags().MarkHidden("daemon")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *daemon != "" {
			return runCompilerDaemon(*daemon)
		}
		return cmd.Help()
	}
	return cmd
}

// runCompilerDaemon is the process that launchers start.
func runCompilerDaemon(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	socket := os.NewFile(socketFile, "socket")
	lock := os.NewFile(lockFile, "lock")
	defer lock.Close()
	l, err := net.FileListener(socket)
	if err != nil {
		return fmt.Errorf("the daemon is started by sarsen cc: %w", err)
	}
	socket.Close()
	d, err := compiler.Open(ctx, compiler.Options{Dir: dir})
	if err != nil {
		return err
	}
	err = d.Serve(ctx, l.(*net.UnixListener))
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	return err
}
