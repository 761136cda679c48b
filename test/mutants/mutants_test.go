package mutants

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// caught says which test of which package must fail for each mistake, and what it must say.
var caught = []struct {
	mutant, pkg, test, says string
}{
	{"FirstWins", "segment", "TestSeeded/FirstWins", "FirstWins: "},
	{"OpenHolds", "segment", "TestSeeded/OpenHolds", "OpenHolds: an open blob could not be read"},
	{"NoFalseYes", "segment", "TestSeeded/NoFalseYes", "NoFalseYes: a yes did not stand"},
	{"YesStands", "segment", "TestSeeded/YesStands", "YesStands: at the end of the lease: a yes did not stand"},
	{"Immutable", "segment", "TestSeeded/Immutable", "Immutable: Commit of wrong bytes"},
	{"AbortVictim", "segment", "TestSeeded/NoFalseYes", "which is not in the ring"},
	{"EarlyComplete", "segment", "TestSeededTwins", "bytes that are not the blob's"},
	{"EarlySynced", "segment", "TestSeededAcknowledged", "was acknowledged"},
	{"NoSlot", "segment", "TestSeededRecords", "after a restart"},
	{"Complete", "action", "TestSeededComplete", "Complete: a result was served, but"},
}

func TestMutants(t *testing.T) {
	binaries := map[string]string{}
	for _, c := range caught {
		binary, ok := binaries[c.pkg]
		if !ok {
			binary = build(t, c.pkg)
			binaries[c.pkg] = binary
			if out, err := run(binary, c.pkg, "", "."); err != nil {
				t.Fatalf("the tests of %s fail without any mistake: %v\n%s", c.pkg, err, out)
			}
		}
		t.Run(c.mutant, func(t *testing.T) {
			out, err := run(binary, c.pkg, c.mutant, "^"+strings.ReplaceAll(c.test, "/", "$/^")+"$")
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

func build(t *testing.T, pkg string) string {
	binary := filepath.Join(t.TempDir(), pkg+".test")
	cmd := exec.Command("go", "test", "-tags", "mutant", "-c", "-o", binary, "./"+pkg)
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return binary
}

func run(binary, pkg, mutant, test string) (string, error) {
	cmd := exec.Command(binary, "-test.run", test, "-test.timeout", "60s")
	cmd.Dir = "../../" + pkg
	cmd.Env = append(os.Environ(), "SARSEN_MUTANT="+mutant)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
