package compiler

import "syscall"

func stampFrom(st *syscall.Stat_t) stamp {
	return stamp{
		device: st.Dev, inode: st.Ino, size: st.Size, mode: modeFrom(st),
		mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano(),
	}
}
