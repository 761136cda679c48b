//go:build unix

package compiler

import (
	"os"
	"syscall"
)

// stampOf returns the stamp of the file that path leads to.
func stampOf(path string) (stamp, error) {
	var st syscall.Stat_t
	for {
		err := syscall.Stat(path, &st)
		if err == nil {
			return stampFrom(&st), nil
		}
		if err != syscall.EINTR {
			return stamp{}, err
		}
	}
}

func stampOfFile(f *os.File) (stamp, error) {
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		return stamp{}, err
	}
	return stampFrom(&st), nil
}

// modeFrom tells regular files and directories from everything else.
func modeFrom(st *syscall.Stat_t) os.FileMode {
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		return 0
	case syscall.S_IFDIR:
		return os.ModeDir
	}
	return os.ModeIrregular
}
