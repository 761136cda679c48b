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
	has   []string // controllers
	count atomic.Uint64
}

// controllers are those that are of use here.
var controllers = []string{"memory", "pids", "cpu"}

// limits reports whether actions can be limited in what a controller controls.
func (c *cgroup) limits(controller string) bool {
	return c != nil && slices.Contains(c.has, controller)
}

// lacks says which controllers are missing, or returns nil.
func (c *cgroup) lacks() error {
	var names []string
	for _, name := range controllers {
		if !c.limits(name) {
			names = append(names, name)
		}
	}
	if names == nil {
		return nil
	}
	return fmt.Errorf("%s has no controller %s", filepath.Dir(c.dir), strings.Join(names, " and no "))
}

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
	own = filepath.Join(mount, own)
	c, err := newCgroup(own)
	if !errors.Is(err, unix.EBUSY) {
		return c, err
	}
	// A group that holds processes can't share out. If it was delegated to the worker (Delegate=yes of a systemd unit), they are
	// the worker's and may move down; else the one above may have been.
	if moved := moveDown(own); moved == nil {
		if c, err := newCgroup(own); err == nil {
			return c, nil
		}
	}
	if above, err := newCgroup(filepath.Dir(own)); own != mount && err == nil {
		return above, nil
	}
	return nil, err
}

// moveDown moves the worker and its runner from a group into one below it, if there is nobody else in it.
func moveDown(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return err
	}
	ours, _ := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
	known := append(strings.Fields(string(ours)), strconv.Itoa(os.Getpid()), strconv.Itoa(os.Getppid()))
	pids := strings.Fields(string(text))
	for _, pid := range pids {
		if !slices.Contains(known, pid) {
			return fmt.Errorf("process %s is in %s too", pid, dir)
		}
	}
	leaf := filepath.Join(dir, "sarsen-worker")
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	for _, pid := range pids {
		if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte(pid), 0); err != nil {
			return err
		}
	}
	return nil
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

// newCgroup makes a directory for this runner's actions, with the controllers that there are, and removes those of
// runners that are gone.
func newCgroup(dir string) (*cgroup, error) {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return nil, err
	}
	c := &cgroup{dir: filepath.Join(dir, fmt.Sprintf("sarsen-%d", os.Getpid()))}
	have := strings.Fields(string(text))
	for _, name := range controllers {
		if slices.Contains(have, name) {
			c.has = append(c.has, name)
		}
	}
	if c.has == nil {
		return nil, c.lacks()
	}
	enable := []byte("+" + strings.Join(c.has, " +"))
	if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), enable, 0); err != nil {
		return nil, fmt.Errorf("share out controllers (delegate a group to the worker): %w", err)
	}
	removeStale(dir)
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(c.dir, "cgroup.subtree_control"), enable, 0); err != nil {
		return nil, err
	}
	return c, nil
}

// removeStale removes the groups of runners that are gone: they could not do that themselves. What still lives in one keeps it.
func removeStale(dir string) {
	groups, _ := filepath.Glob(filepath.Join(dir, "sarsen-[0-9]*"))
	for _, group := range groups {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(group), "sarsen-"))
		if err != nil || pid != os.Getpid() && unix.Kill(pid, 0) != unix.ESRCH {
			continue
		}
		below, _ := filepath.Glob(filepath.Join(group, "[0-9]*"))
		for _, action := range below {
			_ = os.Remove(action)
		}
		_ = os.Remove(group)
	}
}

// A cgroupChild is one action's group.
type cgroupChild struct {
	dir    string
	fd     int
	memory int64 // its limit; 0 is none
}

func (c *cgroup) child(s *Spec) (*cgroupChild, error) {
	g := &cgroupChild{dir: filepath.Join(c.dir, strconv.FormatUint(c.count.Add(1), 10)), fd: -1, memory: s.Memory}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil, err
	}
	for name, value := range limits(s) {
		if controller, _, _ := strings.Cut(name, "."); !c.limits(controller) {
			continue
		}
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
