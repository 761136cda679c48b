package mutants

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// caught says which test of which package must fail for each mistake, and what it must say.
var caught = []struct {
	mutant, pkg, test, says string
}{
	{"FirstWins", "segment", "TestSeeded/FirstWins", "FirstWins: "},
	{"KeyPresent", "segment", "TestRaceStaleUnref", "a yes did not stand"},
	{"PlaceFirst", "segment", "TestRaceEmplace", "file does not exist"},
	{"StaleHandle", "segment", "TestRaceEmplace", "file does not exist"},
	{"StaleUnref", "segment", "TestRaceTornEntry", "lost update: version"},
	{"OpenHolds", "segment", "TestSeeded/OpenHolds", "OpenHolds: an open blob could not be read"},
	{"NoFalseYes", "segment", "TestSeeded/NoFalseYes", "NoFalseYes: a yes did not stand"},
	{"YesStands", "segment", "TestSeeded/YesStands", "YesStands: at the end of the lease: a yes did not stand"},
	{"Immutable", "segment", "TestSeeded/Immutable", "Immutable: Commit of wrong bytes"},
	{"EarlyComplete", "segment", "TestSeededTwins", "after a restart: "},
	{"EarlySynced", "segment", "TestSeededAcknowledged", "was acknowledged"},
	{"SyncAgain", "segment", "TestSyncFails", "Put after a sync failed"},

	{"BodyUnsummed", "segment", "TestRaceTornEntry", "torn: it begins with"},
	{"HeaderLate", "segment", "TestRaceTornEntry", ": lost"},
	{"ResultUnsynced", "segment", "TestRaceTornEntry", "after a power cut: lost"},
	{"NameUnsynced", "segment", "TestRaceTornEntry", "after a power cut: lost"},
	{"KeepFirst", "segment", "TestRaceTornEntry", "lost update: version"},
	{"AnyOrder", "segment", "TestRaceTornEntry", "lost update: version"},
	{"MoveBlind", "segment", "TestRaceTornEntry", "lost update: version"},
	{"NoSlot", "segment", "TestSeededRecords", "after a restart"},

	{"LostUnleased", "segment", "TestRaceLostInputs", "a yes did not stand"},
	{"StampApart", "segment", "TestRaceLostInputs", "asker: right after a yes"},
	{"CondemnApart", "segment", "TestRaceLostInputs", "asker: right after a yes"},
	{"Poisoned", "segment", "TestRaceLostInputs", "a yes did not stand"},
	{"LeaseUnlogged", "segment", "TestRaceLeaseAndKill", "after a kill: a yes did not stand"},

	{"NoTurn", "segment", "TestRaceRing", "which is not in the ring"},
	{"SealUnsynced", "segment", "TestEveryCrashImage/rotate_with_open_uploads", "stored bytes are corrupt"},
	{"AbortVictim", "segment", "TestSeeded/NoFalseYes", "which is not in the ring"},
	{"MoveUnsynced", "segment", "TestRaceCopyAndPowerCut", "after a power cut: a yes did not stand"},

	{"Complete", "action", "TestSeededComplete", "Complete: a result was served, but"},
	{"TreeUnread", "action", "TestRaceTreeFile", "a result was acknowledged, but file in a tree's"},
	{"UpdateUnpinned", "action", "TestRaceLostInputs", "Complete: Put of a result all of which was uploaded"},
	{"UpdateUnleased", "action", "TestRaceLostInputs", "Complete: updater: a result was acknowledged, but"},
	{"DropLatest", "action", "TestRaceDrop", "lost update: Get right after"},

	{"RunsTwice", "execution", "TestRunsOnce", "want nothing"},
	{"HoleServed", "execution", "TestHole", "want one assignment"},
	{"AmountKept", "execution", "TestAmounts", "want one assignment"},
	{"LeaseOnce", "execution", "TestInputsHeld", "InputsHeld: "},
	{"GraceForgets", "execution", "TestReconnect", "after it came back the worker is told"},
}

func TestMutants(t *testing.T) {
	binaries := map[string]string{}
	for _, c := range caught {
		binary, ok := binaries[c.pkg]
		if !ok {
			binary = build(t, c.pkg)
			binaries[c.pkg] = binary
			if out, err := run(binary, c.pkg, "", testsOf(c.pkg), 10*time.Minute, "-test.short"); err != nil {
				t.Fatalf("the tests of %s fail without any mistake: %v\n%s", c.pkg, err, out)
			}
		}
		t.Run(c.mutant, func(t *testing.T) {
			out, err := run(binary, c.pkg, c.mutant, "^"+strings.ReplaceAll(c.test, "/", "$/^")+"$", time.Minute)
			var exit *exec.ExitError
			if !errors.As(err, &exit) {
				t.Fatalf("%s survived %s of %s: %v", c.mutant, c.test, c.pkg, err)
			}
			if !strings.Contains(out, c.says) {
				t.Errorf("%s made %s fail, but not with %q:\n%s", c.mutant, c.test, c.says, out)
			}
		})
	}
}

// testsOf matches the tests of a package that the table names.
func testsOf(pkg string) string {
	var names []string
	for _, c := range caught {
		name, _, _ := strings.Cut(c.test, "/")
		if c.pkg == pkg && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return "^(" + strings.Join(names, "|") + ")$"
}

func build(t *testing.T, pkg string) string {
	binary := filepath.Join(t.TempDir(), pkg+".test")
	cmd := exec.Command("go", "test", "-tags", "mutant", "-c", "-o", binary, "./"+pkg)
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return binary
}

func run(binary, pkg, mutant, test string, limit time.Duration, more ...string) (string, error) {
	cmd := exec.Command(binary, append(more, "-test.run", test, "-test.timeout", limit.String())...)
	cmd.Dir = "../../" + pkg
	cmd.Env = append(os.Environ(), "SARSEN_MUTANT="+mutant)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
