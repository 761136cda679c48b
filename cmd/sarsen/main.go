// Command sarsen is the one program: a subcommand a file.
//
// A configuration becomes running services in run.go, which also says in which order they start and
// stop. Everything that a user reads goes through this package: the ready notice (notice.go), the log
// (log.go), and errors, which are one sentence that says what to do (explain.go).
//
// # Concurrency
//
// One goroutine starts and stops everything. The listeners run in goroutines of their own, and a
// second signal ends the process from wherever it is.
//
// # Crashes
//
// A clean stop drains both servers and then closes the store. A kill leaves a store that the next
// start recovers; see package segment.
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sarsen-build/sarsen/worker/sandbox"
)

// What the process ends with.
const (
	statusOK    = 0
	statusError = 1
	statusUsage = 2
)

const rootHelp = `Sarsen keeps what builds make: a cache and remote execution for the Remote Execution API v2 (Bazel,
buildbox, moon and others), a cache over HTTP, and backups of restic, casync and Proxmox
clients, on one content-addressed store.

When Sarsen says that a blob is here, it can be read until its lease ends.

Start it on this machine, with no configuration:

  sarsen up

Exit status:
  0  done
  1  an error; one sentence on standard error says what to do
  2  the command line makes no sense`

func main() {
	if sandbox.Main() { // this is the process that runs a worker's actions
		return
	}
	if isCcacheStorage() {
		if err := runCcacheStorage(); err != nil {
			fmt.Fprintf(os.Stderr, "sarsen: %v\n", err)
			os.Exit(statusError)
		}
		return
	}
	cobra.EnableCommandSorting = false // what most people need comes first
	os.Exit(execute(newRootCommand()))
}

// execute runs the program and returns its exit status.
func execute(root *cobra.Command) int {
	ran := false
	markRuns(root, &ran)
	cmd, err := root.ExecuteC()
	if err == nil {
		return statusOK
	}
	// Several errors, as a configuration can have them, are a line each.
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(root.ErrOrStderr(), "sarsen: %s\n", strings.TrimSuffix(line, "\n"))
	}
	var usage *usageError
	if !ran || errors.As(err, &usage) {
		fmt.Fprintf(root.ErrOrStderr(), "See '%s --help'.\n", cmd.CommandPath())
		return statusUsage
	}
	return statusError
}

// markRuns sets ran when a command begins its work. What fails before that is the command line.
func markRuns(cmd *cobra.Command, ran *bool) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			*ran = true
			return run(cmd, args)
		}
	}
	for _, c := range cmd.Commands() {
		markRuns(c, ran)
	}
}

// A usageError says that a command can't be meant as it was typed.
type usageError struct{ error }

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "sarsen",
		Short:         "A build cache whose yes still stands",
		Long:          rootHelp,
		Version:       version(), // "sarsen --version" is what everybody tries first
		SilenceErrors: true,      // execute prints them
		SilenceUsage:  true,
		Args:          subcommandOnly,
		RunE:          printHelp,
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.AddGroup(&cobra.Group{ID: "serve", Title: "Run a cache:"},
		&cobra.Group{ID: "execute", Title: "Run actions:"}, &cobra.Group{ID: "build", Title: "Serve a build tool:"}, &cobra.Group{ID: "keep", Title: "Keep directories:"}, &cobra.Group{ID: "look", Title: "Look inside a running one:"})
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("serve", newUpCommand(), newServeCommand(), newConfigCommand(), newFsckCommand(), newGCCommand(), newCheckCommand())
	add("execute", newWorkerCommand(), newWorkersCommand(), newDrainCommand())
	add("build", newCCCommand(), newGocacheprogCommand(), newCcacheStorageCommand())
	add("keep", newSnapshotCommand())
	add("look", newStatusCommand(), newPutCommand(), newGetCommand(), newLsCommand(), newTreeCommand(), newActionCommand(), newBenchCommand())
	add("", newVersionCommand())
	return root
}

// subcommandOnly refuses arguments of a command that does nothing by itself: they are mistyped
// subcommands.
func subcommandOnly(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return fmt.Errorf("%q is no command of %s; did you mean %s?", args[0], cmd.CommandPath(), near[0])
	}
	return fmt.Errorf("%q is no command of %s", args[0], cmd.CommandPath())
}

func printHelp(cmd *cobra.Command, args []string) error { return cmd.Help() }
