//go:build !linux || !(amd64 || arm64)

package sandbox

import (
	"errors"
	"runtime"
)

const canJail = false

// own does nothing where the worker's own user runs everything.
func own(string, int) error { return nil }

func newLauncher(o Options, _ string) (launcher, []string, int, error) {
	lack := "no sandbox: there is one for Linux on amd64 and arm64 only, and this is " + runtime.GOOS + " on " + runtime.GOARCH
	switch o.Mode {
	case None:
		return plain{}, nil, 0, nil
	case Strict:
		return nil, []string{lack}, 0, errors.New(lack)
	}
	return plain{}, []string{lack}, 0, nil
}
