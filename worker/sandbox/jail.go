//go:build linux && (amd64 || arm64)

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const canJail = true

// A part of a sandbox that may be missing in mode Auto.
type part uint8

const (
	base part = iota // what there is no sandbox without
	freshProc
	ownUser
	ownNetwork
	filesOverlay
	callFilter
	secondFence
	groupLimits
	ownInputs
	parts
)

// missing says what follows if a part is not there. The verb is for the error.
var missing = [parts]string{
	freshProc:    "no /proc, which many programs want: %v",
	ownUser:      "no user namespace around actions: %v",
	ownNetwork:   "no network namespace, so every action reaches the host's network: %v",
	filesOverlay: "no overlay, so an action can change staged files that it shares with others: %v",
	callFilter:   "no seccomp filter, so every system call is open to actions: %v",
	secondFence:  "no Landlock, so mounts alone keep actions from other files: %v",
	ownInputs:    "no mount with other owners, so actions that are root can't change their inputs in place: %v",
	groupLimits:  "cgroup limits are missing, without which memory is limited per process and processor time not at all: %v",
}

// tolerable are the parts without which mode Strict starts too. They bound what an action may use, stand behind another fence, or are
// no fence.
var tolerable = map[part]bool{secondFence: true, groupLimits: true, ownInputs: true}

// A jail launches commands in sandboxes.
type jail struct {
	options  Options
	asRoot   bool // the runner is root of the host and not only of its user namespace
	view     int  // the mount namespace that actions copy
	null     int
	owners   int // the user namespace of staged files in an overlay for another user
	landlock int // version
	filter   []unix.SockFilter
	caps     int // how many capabilities the kernel knows
	without  [parts]bool
	networks networks
	zygote   *zygote
	cgroup   *cgroup
}

// newLauncher returns what the way and the host allow, sentences about what is missing, and who should own staged directories.
func newLauncher(o Options, way string) (launcher, []string, int, error) {
	unignore()
	if way == asPlain {
		if o.Mode == None {
			return plain{}, nil, 0, nil
		}
		return plain{}, []string{"no sandbox at all"}, 0, nil
	}
	j := &jail{options: o, asRoot: way == asRoot, filter: newFilter(o.Chroot), caps: capabilities()}
	lacks, err := j.prepare()
	if err != nil {
		return nil, nil, 0, err
	}
	owner := 0
	if j.asRoot && !j.overlays() {
		owner = o.User
	}
	var all, fatal []string
	for p, err := range lacks {
		if err == nil {
			continue
		}
		sentence := fmt.Sprintf(missing[p], err)
		all = append(all, sentence)
		if !tolerable[part(p)] {
			fatal = append(fatal, sentence)
		}
	}
	if o.Mode == Strict && len(fatal) > 0 {
		return nil, all, 0, errors.New(strings.Join(fatal, "; "))
	}
	return j, all, owner, nil
}

// unignore makes signals that this process inherited as ignored what a command expects them to be.
func unignore() {
	for n := syscall.Signal(1); n < 32; n++ {
		if signal.Ignored(n) {
			signal.Reset(n)
		}
	}
}

// prepare makes what all actions share, and tries an empty sandbox until it can be built, leaving out what can't be had.
func (j *jail) prepare() ([parts]error, error) {
	var lacks [parts]error
	// Mounts that the host makes later are seen here; those made here are not seen there.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return lacks, fmt.Errorf("own mounts: %w", err)
	}
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return lacks, fmt.Errorf("hostname: %w", err)
	}
	var err error
	if j.null, err = unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return lacks, err
	}
	if j.view, err = newView(j.options); err != nil {
		return lacks, err
	}
	if j.zygote, err = newZygote(j.null, j.view); err != nil {
		return lacks, fmt.Errorf("zygote: %w", err)
	}
	lack := func(p part, err error) {
		lacks[p], j.without[p] = err, true
	}
	if j.landlock, err = landlockVersion(); err != nil {
		lack(secondFence, err)
	} else if j.landlock < 2 {
		lack(secondFence, errors.New("this kernel's first version can't allow renames"))
	}
	if j.options.Chroot && j.asRoot {
		if j.owners, err = newOwners(j.options.User); err != nil {
			lack(ownInputs, err)
		}
	}
	if fd, err := newNetwork(); err != nil {
		lack(ownNetwork, err)
	} else {
		j.networks.give(fd)
	}
	if j.cgroup, err = findCgroup(j.options.Cgroup); err != nil {
		lack(groupLimits, err)
	} else {
		lacks[groupLimits] = j.cgroup.lacks()
	}
	for {
		err := j.probe()
		var f *failure
		switch {
		case err == nil:
			return lacks, nil
		case !errors.As(err, &f) || f.part == base || j.without[f.part]:
			return lacks, err
		}
		lack(f.part, err)
		if f.part == freshProc { // through which its users are written
			lack(ownUser, err)
		}
	}
}

// overlays reports whether an action gets an overlay over its root and not the root itself. Where it is not the worker's user, it
// can't change staged files anyway.
func (j *jail) overlays() bool {
	if j.asRoot {
		return j.options.Chroot && !j.without[ownInputs]
	}
	return !j.without[filesOverlay]
}

// probe builds a sandbox around no command.
func (j *jail) probe() error {
	if j.options.Dir != "" {
		if err := os.MkdirAll(j.options.Dir, 0o755); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp(j.options.Dir, "sarsen-probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	root := dir + "/root"
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	s := &Spec{ID: "probe", Root: root, Dir: ".", Args: nil, Pids: defaultPids, Files: defaultFiles}
	c, err := j.launch(s, -1, j.null, j.null)
	if err != nil {
		return err
	}
	_, err = c.wait()
	if f := c.root(); f != nil {
		_ = f.Close()
	}
	return err
}

// A failure is a step of building a sandbox that failed.
type failure struct {
	part part
	name string
	err  error
}

func (f *failure) Error() string { return f.name + ": " + f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// launch starts one command in a sandbox.
func (j *jail) launch(s *Spec, stdin, stdout, stderr int) (child, error) {
	c := &jailChild{jail: j, name: "", network: -1}
	if len(s.Args) > 0 {
		c.name = s.Args[0]
	}
	if err := c.start(s, stdin, stdout, stderr); err != nil {
		c.release()
		if c.merged != nil {
			_ = c.merged.Close()
		}
		return nil, err
	}
	return c, nil
}

// capabilities returns how many the kernel knows.
func capabilities() int {
	n := 0
	for n < 64 {
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0); err != nil {
			break
		}
		n++
	}
	return n
}
