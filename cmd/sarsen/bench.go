package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sarsen-build/sarsen/bench"
)

const benchHelp = `Load a Remote Execution API server with a fixed set of workloads and print what it bears: requests, items
(blobs, digests, directories, results) and megabytes (10^6 bytes) a second, and latencies. It works with
any server; what one does not offer is reported as unsupported. What is read back is verified.

A full run writes about 2 GB of random blobs, new ones in every run, and takes 1 to 3 minutes; a workload
is cut off after 20 seconds. The server must have room for them. To compare servers, give each a fresh data
directory, keep the machine otherwise idle, and take turns. CPU time for an item, which --pid adds, is
the figure that noise spares most.

The status is 1 if the server does not answer, or if any of its answers was an error or wrong.`

func newBenchCommand() *cobra.Command {
	var (
		of           remote
		o            bench.Options
		asJSON, list bool
	)
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure a server under load",
		Long:  benchHelp,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if list {
				return listWorkloads(cmd.OutOrStdout())
			}
			o.Server, o.Instance = of.server, of.instance
			return runBench(cmd.Context(), o, asJSON, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	of.flags(cmd)
	cmd.Flags().StringVar(&o.HTTP, "http", "", "the server's HTTP cache, http://HOST:PORT with its path prefix if it has one; without it the http workloads are left out")
	cmd.Flags().StringSliceVar(&o.Only, "only", nil, "run only these workloads, separated by commas")
	cmd.Flags().BoolVar(&o.Short, "short", false, "make a twentieth of the requests: a check that all works, not a measurement")
	cmd.Flags().IntVar(&o.PID, "pid", 0, "the server's process id on this machine: adds its CPU time for an item and its peak memory")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document instead of a table")
	cmd.Flags().BoolVar(&list, "list", false, "list the workloads and do nothing")
	return cmd
}

func listWorkloads(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, workload := range bench.Workloads {
		fmt.Fprintf(t, "%s\t%s\n", workload.Name, workload.About)
	}
	return t.Flush()
}

func runBench(ctx context.Context, o bench.Options, asJSON bool, out, progress io.Writer) error {
	// Ctrl-C ends the run and shows what was measured by then.
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	clear := func() {}
	if f, ok := progress.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		const eraseLine = "\r\x1b[K"
		o.Progress = func(p bench.Progress) {
			state := "preparing"
			if p.Done > 0 {
				state = fmt.Sprintf("%.0f%%", 100*p.Done)
			}
			fmt.Fprintf(f, "%s%d of %d  %s  %s", eraseLine, p.Number, p.Of, p.Workload, state)
		}
		clear = func() { fmt.Fprint(f, eraseLine) }
	}
	report, err := bench.Run(ctx, o)
	clear()
	if report == nil {
		return err
	}
	write := report.WriteTable
	if asJSON {
		write = func(w io.Writer) error {
			e := json.NewEncoder(w)
			e.SetIndent("", "  ")
			return e.Encode(report)
		}
	}
	if err := write(out); err != nil {
		return err
	}
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted")
	}
	if faults := report.Faults(); err == nil && len(faults) > 0 {
		return fmt.Errorf("%s: errors or wrong answers in %s", report.Server, strings.Join(faults, ", "))
	}
	return err
}
