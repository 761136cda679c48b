package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/status"

	"github.com/sarsen-build/sarsen/client"
	pb "github.com/sarsen-build/sarsen/internal/workerpb"
)

func newWorkersCommand() *cobra.Command {
	var server string
	cmd := &cobra.Command{
		Use:   "workers",
		Short: "List the workers and what they run",
		Long: `List the workers that a server knows: whether they are ready, draining or away (the connection broke, and
they may come back), how many of their slots are taken, how busy the machine is, and each action that
they run with its command.`,
		Example: "  sarsen workers --server grpc://10.0.0.1:8980",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return withWorkers(cmd.Context(), server, func(ctx context.Context, c pb.WorkersClient) error {
				list, err := c.List(ctx, &pb.ListRequest{})
				if err != nil {
					return err
				}
				return printWorkers(cmd.OutOrStdout(), list.Workers)
			})
		},
	}
	serverFlag(cmd, &server)
	return cmd
}

func newDrainCommand() *cobra.Command {
	var server string
	cmd := &cobra.Command{
		Use:   "drain WORKER",
		Short: "Let a worker finish what it runs, and give it nothing more",
		Long: `Let a worker finish what it runs, and give it nothing more. When it has finished, its process ends.
WORKER is its name in 'sarsen workers'.`,
		Example: "  sarsen drain build-7",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withWorkers(cmd.Context(), server, func(ctx context.Context, c pb.WorkersClient) error {
				_, err := c.Drain(ctx, &pb.DrainRequest{Name: args[0]})
				return err
			})
		},
	}
	serverFlag(cmd, &server)
	return cmd
}

func serverFlag(cmd *cobra.Command, server *string) {
	cmd.Flags().StringVar(server, "server", "grpc://127.0.0.1:8980", "the server: grpc://HOST:PORT, or grpcs://HOST:PORT for TLS"+accessText)
}

// withWorkers calls do with the part of a server that knows its workers.
func withWorkers(ctx context.Context, server string, do func(context.Context, pb.WorkersClient) error) error {
	target, err := client.ParseTarget(server)
	if err != nil {
		return &usageError{err}
	}
	conn, err := reach(target)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := do(ctx, pb.NewWorkersClient(conn)); err != nil {
		return fmt.Errorf("%s: %s", target, status.Convert(err).Message())
	}
	return nil
}

func printWorkers(w io.Writer, workers []*pb.Worker) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "WORKER\tSTATE\tSLOTS\tLOAD\tRUNS")
	for _, k := range workers {
		state := "ready"
		switch {
		case !k.Connected:
			state = "away"
		case k.Draining:
			state = "draining"
		}
		load := "?"
		if k.Load != nil {
			load = fmt.Sprintf("%.0f%%", 100**k.Load)
		}
		fmt.Fprintf(t, "%s\t%s\t%d/%d\t%s\t\n", printable(k.Name), state, len(k.Tasks), k.Slots, load)
		for _, task := range k.Tasks {
			since := time.Since(task.Started.AsTime()).Round(time.Second)
			fmt.Fprintf(t, "\t\t\t\t%s for %s: %.60s (action %.12s)\n", task.Stage, since, printable(strings.Join(task.Arguments, " ")), task.ActionDigest.GetHash())
		}
	}
	return t.Flush()
}
