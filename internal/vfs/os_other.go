//go:build !linux

package vfs

import "os"

// Boot implements FS; nothing is known here.
func (OS) Boot() string { return "" }

func allocate(f *os.File, size int64) error { return f.Truncate(size) }

// DropCache can do nothing here.
func (f osFile) DropCache() error { return nil }

// Punch keeps the bytes: giving room back early is an economy, not a promise.
func (f osFile) Punch(off, n int64) error { return nil }
