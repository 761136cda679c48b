//go:build !linux

package httpcache

import "os"

// unnamedFile returns a new file in dir that has no name any more.
func unnamedFile(dir string) (*os.File, error) { return briefFile(dir) }
