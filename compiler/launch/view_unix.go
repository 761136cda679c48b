//go:build unix

package launch

import "os"

// unlinked returns a file without a name.
func unlinked() (*os.File, error) {
	f, err := os.CreateTemp("", "sarsen-cc-")
	if err != nil {
		return nil, err
	}
	os.Remove(f.Name())
	return f, nil
}
