package compiler

import "syscall"

func stampFrom(st *syscall.Stat_t) stamp {
	return stamp{
		device: uint64(st.Dev), inode: st.Ino, size: st.Size, mode: modeFrom(st),
		mtime: st.Mtimespec.Nano(), ctime: st.Ctimespec.Nano(),
	}
}
