//go:build linux

package compiler_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/compiler/launch"
)

var (
	kills    = flag.Int("kills", 60, "how many compiles TestKills makes")
	killSeed = flag.Uint64("kill-seed", uint64(time.Now().UnixNano()), "what TestKills chooses by")
)

// atOnce is how many processes compile at a time.
const atOnce = 10

// A kill test is ten users of one cache whose compiles, and whose daemon, are killed at random moments.
type killTest struct {
	*user
	want  map[string]string // object by source and argument
	names []string
	runs  atomic.Int64
	whole atomic.Int64 // compiles that ended by themselves
	cut   atomic.Int64 // launchers that were killed
	ended atomic.Int64 // daemons that were killed
}

// TestKills: nothing that a compile leaves, and nothing that another one takes from the cache, is torn,
// and no count is lost. The compiler of a killed launcher goes on, so each compile has an output of its own.
func TestKills(t *testing.T) {
	k := &killTest{user: newUser(t), want: map[string]string{}}
	k.env = nil // the patience of users
	for i := range 4 {
		name := fmt.Sprintf("k%d.c", i)
		k.write(name, fmt.Sprintf("const char text%d[] = \"%s\"; int n = N;\n", i, strings.Repeat("x", 1000<<(4*i))))
		k.names = append(k.names, name)
		for n := range 5 {
			argument := fmt.Sprintf("-DN=%d", n)
			k.exec("gcc", argument, "-c", name, "-o", "want.o")
			k.want[name+argument] = k.read("want.o")
		}
	}
	t.Logf("replay with: go test ./compiler -run '^TestKills$' -args -kills %d -kill-seed %d", *kills, *killSeed)
	const batch = 100
	for done, n := 0, 0; done < *kills && !t.Failed(); done, n = done+batch, n+1 {
		k.start()
		k.batch(n, min(batch, *kills-done), n%2 == 1)
	}
	t.Logf("%d compiles, %d ended by themselves, %d launchers and %d daemons were killed; %v",
		k.runs.Load(), k.whole.Load(), k.cut.Load(), k.ended.Load(), k.counters())
}

// batch makes some compiles. If daemons are killed too, counts are only compared with what they were.
func (k *killTest) batch(n, size int, daemons bool) {
	before, whole := total(k.counters()), k.whole.Load()
	var next atomic.Int64
	var work sync.WaitGroup
	for w := range atOnce {
		random := rand.New(rand.NewPCG(*killSeed, uint64(n*atOnce+w)))
		work.Go(func() {
			for int(next.Add(1)) <= size {
				k.one(random, daemons)
			}
		})
	}
	work.Wait()
	after := total(k.counters())
	if after < before {
		k.t.Errorf("counts went from %d to %d", before, after)
	}
	if completed := k.whole.Load() - whole; !daemons && (after < before+uint64(completed) || after > before+uint64(size)) {
		k.t.Errorf("%d compiles were counted, want at least the %d that ended and at most the %d that began", after-before, completed, size)
	}
}

// total returns how many compiles were counted.
func total(counters map[string]uint64) uint64 {
	var n uint64
	for name, v := range counters {
		if strings.HasPrefix(name, "hit.") || strings.HasPrefix(name, "miss.") || strings.HasPrefix(name, "pass.") {
			n += v
		}
	}
	return n
}

// one makes one compile, which may be killed.
func (k *killTest) one(random *rand.Rand, daemons bool) {
	name, argument := k.names[random.IntN(len(k.names))], fmt.Sprintf("-DN=%d", random.IntN(5))
	object := fmt.Sprintf("o%d.o", k.runs.Add(1))
	cmd := exec.Command(os.Args[0], launch.Program, "gcc", argument, "-c", name, "-o", object)
	cmd.Dir, cmd.Env = k.work, append(k.environ(), "PWD="+k.work)
	if !daemons {
		cmd.Env = append(cmd.Env, "SARSEN_CC_PATIENCE=20s") // so that each is counted
	}
	if random.IntN(4) == 0 {
		cmd.Env = append(cmd.Env, "SARSEN_CC_RECACHE=1")
	}
	if err := cmd.Start(); err != nil {
		k.t.Error(err)
		return
	}
	var kill *time.Timer
	delay := time.Duration(random.IntN(60_000)) * time.Microsecond
	switch chance := random.IntN(10); {
	case chance < 4:
		kill = time.AfterFunc(delay, func() {
			if cmd.Process.Kill() == nil {
				k.cut.Add(1)
			}
		})
	case chance == 4 && daemons:
		kill = time.AfterFunc(delay, k.killDaemon)
	}
	err := cmd.Wait()
	if kill != nil {
		kill.Stop()
	}
	path := filepath.Join(k.work, object)
	got, readErr := os.ReadFile(path)
	if err == nil {
		k.whole.Add(1)
		if readErr != nil || string(got) != k.want[name+argument] {
			k.t.Errorf("%s %s: the object has %d bytes (%v), want the %d of the compiler", argument, name, len(got), readErr, len(k.want[name+argument]))
		}
		os.Remove(path)
	} else if state := cmd.ProcessState.Sys().(syscall.WaitStatus); !state.Signaled() {
		k.t.Errorf("%s %s: the compile failed: %v", argument, name, err)
	}
}

// killDaemon kills whoever has the cache now, if anybody.
func (k *killTest) killDaemon() {
	if pid := k.holder(); pid > 0 && syscall.Kill(pid, syscall.SIGKILL) == nil {
		k.ended.Add(1)
	}
}
