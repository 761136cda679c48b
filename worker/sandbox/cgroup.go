//go:build linux && (amd64 || arm64)

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A cgroup is a directory of cgroup v2 in which every action gets one of its own.
type cgroup struct {
	dir   string
	count atomic.Uint64
}

// controllers are those without which limits mean nothing.
var controllers = []string{"memory", "pids", "cpu"}

// findCgroup returns the given directory, or this process's own or the one above it, whichever may hold groups with limits.
func findCgroup(dir string) (*cgroup, error) {
	if dir != "" {
		return newCgroup(dir)
	}
	mount, err := cgroupMount()
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	own := ""
	for line := range strings.Lines(string(text)) {
		if p, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			own = p
		}
	}
	c, err := newCgroup(filepath.Join(mount, own))
	if errors.Is(err, unix.EBUSY) && own != "/" {
		// A group that holds processes can't share out; the service manager may have delegated the one above.
		if above, err := newCgroup(filepath.Join(mount, filepath.Dir(own))); err == nil {
			return above, nil
		}
	}
	return c, err
}

func cgroupMount() (string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		before, after, ok := strings.Cut(line, " - ")
		if fields := strings.Fields(before); ok && strings.HasPrefix(after, "cgroup2 ") && len(fields) > 4 {
			return fields[4], nil
		}
	}
	return "", errors.New("cgroup v2 is not mounted")
}

// newCgroup makes a directory for this runner's actions, with the controllers that they need.
func newCgroup(dir string) (*cgroup, error) {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return nil, err
	}
	have := strings.Fields(string(text))
	for _, name := range controllers {
		if !slices.Contains(have, name) {
			return nil, fmt.Errorf("%s has no controller %q", dir, name)
		}
	}
	own := filepath.Join(dir, fmt.Sprintf("sarsen-%d", os.Getpid()))
	enable := []byte("+" + strings.Join(controllers, " +"))
	if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), enable, 0); err != nil {
		return nil, fmt.Errorf("share out controllers (delegate a group to the worker): %w", err)
	}
	if err := os.Mkdir(own, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(own, "cgroup.subtree_control"), enable, 0); err != nil {
		return nil, err
	}
	return &cgroup{dir: own}, nil
}

// A cgroupChild is one action's group.
type cgroupChild struct {
	dir string
	fd  int
}

func (c *cgroup) child(s *Spec) (*cgroupChild, error) {
	g := &cgroupChild{dir: filepath.Join(c.dir, strconv.FormatUint(c.count.Add(1), 10)), fd: -1}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil, err
	}
	for name, value := range limits(s) {
		if err := os.WriteFile(filepath.Join(g.dir, name), []byte(value), 0o644); err != nil && !(name == "memory.swap.max" && errors.Is(err, os.ErrNotExist)) {
			g.remove()
			return nil, err
		}
	}
	var err error
	if g.fd, err = unix.Open(g.dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		g.remove()
		return nil, err
	}
	return g, nil
}

// limits returns the files of a group and what is to be written to them.
func limits(s *Spec) map[string]string {
	const period = 100_000                                           // microseconds
	files := map[string]string{"pids.max": strconv.Itoa(s.Pids + 1)} // and init
	if s.Memory > 0 {
		files["memory.max"] = strconv.FormatInt(s.Memory, 10)
		files["memory.swap.max"] = "0"
		files["memory.oom.group"] = "1"
	}
	if s.CPU > 0 {
		files["cpu.max"] = fmt.Sprintf("%d %d", max(1000, int64(s.CPU*period)), period)
	}
	return files
}

// outOfMemory reports whether the kernel killed for the group's limit.
func (g *cgroupChild) outOfMemory() bool {
	text, err := os.ReadFile(filepath.Join(g.dir, "memory.events"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			return n != "0"
		}
	}
	return false
}

// remove removes the group. Nothing lives in it, but the kernel is asked to kill all the same.
func (g *cgroupChild) remove() {
	_ = os.WriteFile(filepath.Join(g.dir, "cgroup.kill"), []byte("1"), 0)
	_ = os.Remove(g.dir)
	if g.fd >= 0 {
		_ = unix.Close(g.fd)
	}
}
