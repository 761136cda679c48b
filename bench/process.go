package bench

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The kernel tells processes' CPU time in ticks of USER_HZ, which is 100 on every architecture that
// Go runs on.
const ticksPerSecond = 100

// A process is what the kernel says of one, up to now.
type process struct {
	cpu       float64 // seconds, in user and kernel mode, all threads
	peak      int64   // bytes resident at most
	anonymous int64   // bytes resident that are no file's
}

func readProcess(pid int) (process, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return process{}, fmt.Errorf("process %d: %w; give the server's process id with --pid", pid, err)
	}
	stated, err := os.ReadFile(dir + "/status")
	if err != nil {
		return process{}, fmt.Errorf("process %d: %w", pid, err)
	}
	var p process
	if p.cpu, err = parseStat(stat); err != nil {
		return process{}, fmt.Errorf("process %d: %w", pid, err)
	}
	p.peak, p.anonymous = parseStatus(stated, "VmHWM:"), parseStatus(stated, "RssAnon:")
	return p, nil
}

// parseStat returns the CPU seconds in a /proc/PID/stat: fields 14 and 15 of proc_pid_stat(5). The
// second field is the program's name, which may hold spaces and parentheses.
func parseStat(stat []byte) (float64, error) {
	end := bytes.LastIndexByte(stat, ')')
	fields := strings.Fields(string(stat[end+1:]))
	if end < 0 || len(fields) < 13 {
		return 0, fmt.Errorf("stat %q has too few fields", stat)
	}
	ticks := int64(0)
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("stat: CPU time %q is not a number", field)
		}
		ticks += n
	}
	return float64(ticks) / ticksPerSecond, nil
}

// parseStatus returns the bytes of a field of /proc/PID/status that is given in kB, or 0.
func parseStatus(text []byte, field string) int64 {
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, field); ok {
			n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n << 10
		}
	}
	return 0
}

// usage reads the server's process, if it is known.
func (s *session) usage() (process, error) {
	if s.pid == 0 {
		return process{}, nil
	}
	return readProcess(s.pid)
}

func spent(before, after process, items int64) *Usage {
	u := &Usage{CPU: after.cpu - before.cpu, PeakMemory: after.peak, AnonymousMemory: after.anonymous}
	if items > 0 {
		u.CPUPerItem = u.CPU / float64(items)
	}
	return u
}

// ownCPU returns the CPU seconds that this process has used.
func ownCPU() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}
