package compiler

import (
	"os"
	"syscall"

	"github.com/sarsen-build/sarsen/compiler/args"
	"github.com/sarsen-build/sarsen/internal/mutant"
)

// replaceable reports whether a new file in the place of an output that is there is what the compiler would leave. The
// assembler and clang write a new file too, unless the assembler finds an empty one. What else is written goes into the file
// that is there, which may have another mode or other names. The compiler refuses to write its source.
func (j *job) replaceable(kind args.Kind, there os.FileInfo, mode os.FileMode) bool {
	s, ok := there.Sys().(*syscall.Stat_t)
	if !ok || !there.Mode().IsRegular() {
		return false
	}
	if mutant.SourceReplaced {
		return true
	}
	if now := stampFrom(s); now.device == j.source.stamp.device && now.inode == j.source.stamp.inode {
		return false
	}
	if kind == args.Object && (j.command.Dialect.Clang() || j.command.Mode == args.Compile && there.Size() > 0) {
		return true
	}
	return s.Nlink == 1 && there.Mode() == mode && int(s.Uid) == os.Geteuid()
}
