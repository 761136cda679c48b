//go:build linux && (amd64 || arm64)

package sandbox

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// overlay returns a mount in which root can be changed and nothing changes in root. What the action writes lies in layers,
// a directory that is made, and goes when the caller removes it. The root in it belongs to owner.
func overlay(root, layers string, owner int) (int, error) {
	upper, work := layers+"/upper", layers+"/work"
	for _, dir := range []string{upper, work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return -1, err
		}
	}
	if owner != os.Geteuid() {
		if err := os.Chown(upper, owner, owner); err != nil {
			return -1, err
		}
	}
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	escape := strings.NewReplacer(`\`, `\\`, `:`, `\:`)
	for _, o := range [][2]string{{"lowerdir", escape.Replace(root)}, {"upperdir", escape.Replace(upper)}, {"workdir", escape.Replace(work)}} {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return -1, fmt.Errorf("%s: %w", o[0], err)
		}
	}
	if err := unix.FsconfigSetFlag(fs, "userxattr"); err != nil {
		return -1, fmt.Errorf("userxattr: %w", err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
}
