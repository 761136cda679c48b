//go:build crash && linux

package crash

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dustin/go-humanize"
)

var (
	count      = flag.Int("n", 20, "how many kills, or power cuts")
	serverFlag = flag.String("server", "", "the shell command that starts the server to try, with {dir}, {grpc}, {http} and {sarsen} in it (default: Sarsen)")
	leaseFlag  = flag.Duration("lease", 0, "the lease of the server that -server starts; 0 if it has none, or if all that fits -room is leased")
	roomFlag   = flag.Int64("room", 256, "MiB to write before an empty directory is taken, where there is no lease; the server must keep twice that")
	budget     = flag.Duration("budget", 0, "stop after this time, however many kills or cuts are left; 0 is no limit")
	seedFlag   = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the sizes, the choices and the instants")
	ledgerFlag = flag.String("ledger", "", "a file that gets a line about the run")
)

// sarsen is the absolute path of the program under test.
var sarsen = os.Getenv("SARSEN")

func TestMain(m *testing.M) {
	flag.Parse()
	if err := ownMounts(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

func run(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "sarsen-crash-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if sarsen == "" {
		sarsen = filepath.Join(dir, "sarsen")
		build := exec.Command("go", "build", "-o", sarsen, "../../cmd/sarsen")
		if out, err := build.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("building sarsen: %w\n%s", err, out)
		}
	}
	return m.Run(), nil
}

// ownMountsDone is set in the environment of a test that has a mount namespace of its own.
const ownMountsDone = "SARSEN_CRASH_OWN_MOUNTS"

// ownMounts runs this program again in a mount namespace of its own, where that can be had: its mounts,
// and with them their loop devices, go when the last process in it does, however that ends.
func ownMounts() error {
	if os.Getenv(ownMountsDone) != "" || noNamespace() != nil {
		return nil
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := append([]string{"unshare", "--mount", "--propagation", "private", "--", self}, os.Args[1:]...)
	return syscall.Exec(unshare, args, append(os.Environ(), ownMountsDone+"=1"))
}

// noNamespace says why there is no mount namespace to be had, or nil.
func noNamespace() error {
	if os.Geteuid() != 0 {
		return errors.New("mounts need root")
	}
	out, err := exec.Command("unshare", "--mount", "--propagation", "private", "true").CombinedOutput()
	if err != nil {
		return fmt.Errorf("unshare: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// A variant is a server to try and what it promises.
type variant struct {
	command command
	lease   time.Duration
	room    int64         // bytes to write before an empty directory is taken; 0 is no limit
	pace    int64         // bytes a second
	budget  time.Duration // 0 is no limit
	ours    bool
	files   bool // it has files of repositories too
}

// ourCommand starts Sarsen.
func ourCommand(settings string) command {
	return command("exec {sarsen} up --worker-slots 0 --dir {dir} --grpc 127.0.0.1:{grpc} --http 127.0.0.1:{http} --log-level warn " + settings)
}

// given returns the variant that the flags ask for, if they do.
func given(pace int64) (variant, bool) {
	v := variant{command: command(*serverFlag), lease: *leaseFlag, pace: pace, budget: *budget}
	if v.lease == 0 {
		v.lease, v.room = forever, *roomFlag<<20
	}
	return v, *serverFlag != ""
}

// A trial is a test of one variant under way.
type trial struct {
	t       *testing.T
	harness string
	variant variant
	seed    uint64
	began   time.Time

	oracle *oracle
	load   *load
	tally  tally

	mu    sync.Mutex // askers tell while the test counts
	runs  int
	lines int // of losses that were told
}

func newTrial(t *testing.T, harness string, v variant) *trial {
	tr := &trial{t: t, harness: harness, variant: v, seed: *seedFlag, began: time.Now(), oracle: newOracle(v.lease)}
	tr.load = newLoad(tr.oracle, tr.seed, v.pace, tr.tell)
	t.Cleanup(func() { _, _ = tr.load.stop() })
	t.Logf("%s; -seed %d makes the same choices, though not the same instants", v.command, tr.seed)
	return tr
}

// ran counts a kill or a cut.
func (tr *trial) ran() {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.runs++
}

// shown is how many losses are logged one by one.
const shown = 10

// tell logs a loss, if it is among the first.
func (tr *trial) tell(format string, args ...any) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.lines++; tr.lines <= shown {
		tr.t.Logf("%s %d: "+format, append([]any{tr.harness, tr.runs}, args...)...)
	}
}

// over reports whether the time for this trial is.
func (tr *trial) over() bool {
	return tr.variant.budget > 0 && time.Since(tr.began) > tr.variant.budget
}

// ask asks a server for a sample and counts what is not there.
func (tr *trial) ask(c *check, s sample) {
	tr.t.Helper()
	c.lease, c.tell = tr.variant.lease, tr.tell
	if err := c.ask(tr.t.Context(), s); err != nil {
		tr.t.Fatalf("%s %d: %v", tr.harness, tr.runs, err)
	}
	tr.tally.add(c.tally)
}

// stopLoad stops the load and counts what its askers found.
func (tr *trial) stopLoad() {
	tr.t.Helper()
	found, err := tr.load.stop()
	tr.tally.add(found)
	if err != nil {
		tr.t.Errorf("%s %d: %v", tr.harness, tr.runs, err)
	}
}

// failed reports whether to stop because Sarsen failed. Other servers' losses are counted to the end.
func (tr *trial) failed() bool {
	return tr.variant.ours && (tr.t.Failed() || tr.broken() > 0)
}

// broken returns how many promises were broken. Through a power cut a blob that no acknowledged result
// names is not promised (docs/promise.md): clients find out by asking.
func (tr *trial) broken() int64 {
	t := tr.tally
	broken := t.results + t.files + t.holes + t.named + t.wrong
	if tr.harness == "kill" {
		broken += t.others
	}
	return broken
}

// crowded reports whether the directory has got all that it has room for.
func (tr *trial) crowded() bool {
	_, bytes := tr.oracle.counts()
	return tr.variant.room > 0 && bytes > tr.variant.room
}

// renew makes h's directory an empty one, between two servers.
func (tr *trial) renew(h *host) {
	tr.t.Helper()
	if err := os.RemoveAll(h.dir); err != nil {
		tr.t.Fatal(err)
	}
	tr.oracle.reset()
	tr.load.forget()
}

// finish says what was found, and writes it into the ledger of runs.
func (tr *trial) finish() {
	tr.t.Helper()
	r := tr.report()
	_, bytes := tr.oracle.counts()
	tr.t.Logf("%s into the last directory\n%s%s", humanize.Bytes(uint64(bytes)), ledgerHead, r)
	if *ledgerFlag != "" {
		if err := r.append(*ledgerFlag); err != nil {
			tr.t.Error(err)
		}
	}
}

func (tr *trial) report() report {
	acknowledged, _ := tr.oracle.counts()
	return report{
		began: tr.began, harness: tr.harness, command: tr.variant.command, runs: tr.runs,
		acknowledged: acknowledged, refused: tr.load.refused.Load(), tally: tr.tally, took: time.Since(tr.began),
	}
}
