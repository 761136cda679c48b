//go:build unix && !linux

package launch

import "os"

// View names the tree of files that this process sees. There is one for all.
func View() string { return "/" }

// starved reports whether the process at the other end would run if it got a processor.
func starved(int) bool { return false }

func scratch() (*os.File, error) { return unlinked() }

func isTerminal(int) bool {
	info, err := os.Stderr.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
