// Package launch is the process that a build starts for each compile, before anything else of the program.
//
// `sarsen cc gcc ...`, or a link to the program that is named like a compiler, asks the user's daemon
// (package compiler) once what to do, and does it: puts outputs in place that the daemon has written, or
// runs the compiler. The package takes over while the program is being initialised, and before all but what
// every Go program has: the initialisation of the rest costs more than a cached compile. Packages are initialised
// in the order of their paths as far as imports allow, so it imports nothing that waits for a path behind its own
// (strings and fmt wait for unicode); TestImports has the list.
//
// # Invariants
//
//   - The compile is done: whatever the daemon, the disk or the network do, the outputs are those of the
//     compiler and the exit status is its own. No wait is longer than Patience without a sign that the
//     daemon works.
//   - Only this process changes what a build sees: the daemon writes beside the outputs, and the rename
//     is here. A daemon that wakes up late finds nobody who would rename.
//
// # Concurrency
//
// One goroutine; a second one passes signals on while a compiler runs.
//
// # Crashes
//
// A kill leaves at most what a killed compiler leaves. The daemon notices that the connection ended,
// and removes what it wrote beside the outputs.
package launch

import (
	"os"
	"path"
	"time"
)

// Patience is how long a launcher waits for the daemon's next word before it looks whether the daemon
// still runs. SARSEN_CC_PATIENCE changes it.
const Patience = 100 * time.Millisecond

// FarPatience is how long it waits while another machine compiles. It is never less than its patience otherwise.
const FarPatience = time.Second

func patience() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("SARSEN_CC_PATIENCE")); err == nil && d > 0 {
		return d
	}
	return Patience
}

// Program is the subcommand that the launcher answers to: `sarsen cc`.
const Program = "cc"

// Execute is the variable that says whether a server compiles what is not known. `sarsen cc --remote` sets it.
const Execute = "SARSEN_CC_REMOTE_EXECUTE"

func init() {
	if argv := command(os.Args); argv != nil {
		os.Exit(compile(argv))
	}
}

// command returns the compiler's command line if this process was started for a compile: what follows
// `sarsen cc`, or everything if the program was called by a compiler's name.
func command(argv []string) []string {
	switch {
	case len(argv) == 0:
		return nil
	case isCompiler(path.Base(argv[0])):
		return argv
	case len(argv) > 3 && argv[1] == Program && argv[2] == "--remote" && !hasPrefix(argv[3], "-"):
		os.Setenv(Execute, "1")
		return argv[3:]
	case len(argv) > 2 && argv[1] == Program && !hasPrefix(argv[2], "-"):
		if again := command(argv[2:]); again != nil && path.Base(argv[2]) == path.Base(argv[0]) {
			return again // sarsen cc sarsen cc gcc
		}
		return argv[2:]
	}
	return nil
}

// isCompiler reports whether a program of that name is a compiler: gcc, x86_64-linux-gnu-g++-12, cl.exe.
func isCompiler(name string) bool {
	name = trimSuffix(name, ".exe")
	cut := len(name)
	for cut > 0 && (name[cut-1] == '.' || name[cut-1] >= '0' && name[cut-1] <= '9') {
		cut--
	}
	if hasSuffix(name[:cut], "-") {
		name = name[:cut-1]
	}
	if name == "clang-cl" {
		return true
	}
	name = name[lastIndex(name, '-')+1:]
	switch name {
	case "gcc", "g++", "cc", "c++", "clang", "clang++", "cl":
		return true
	}
	return false
}
