package ringmodel

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// begin returns the state at the start: D and version 1 of the result in a sealed segment, an empty
// active one, and tasks as change says.
func begin(change func(s *state)) state {
	complete := func(k kind) record { return record{kind: k, live: whole, disk: whole, complete: true} }
	s := state{active: 2, highest: 2, used: 1 << 1, acked: 1}
	s.segments[0] = segment{gen: 1, listed: true, durable: true, n: 2, foot: written | 3, footDisk: written | 3,
		records: [maxRecords]record{complete(blobD), complete(result1)}}
	s.segments[1] = segment{gen: 2, listed: true, durable: true}
	s.entries[keyD] = entry{at: firstD, recorded: true}
	s.entries[keyK] = entry{at: place{1, 1}, recorded: true}
	s.logs[0] = leaseLog{since: 2, lives: true}
	change(&s)
	return s
}

// absent takes D away, as if it had been evicted.
func (s *state) absent() {
	s.segments[0].records[0] = record{kind: blobD, live: hole, disk: hole}
	s.segments[0].foot, s.segments[0].footDisk = written|2, written|2
	s.entries[keyD] = entry{}
}

// begins lets tasks take part. The cleaner may remove rounds segments.
func (s *state) begins(rounds uint8, ts ...int) {
	for _, t := range ts {
		s.tasks[t].at = start
	}
	if rounds > 0 {
		s.tasks[cleaner] = task{at: start, left: rounds}
	}
}

var scenarios = map[string]func(s *state){
	"writers, cleaner":             func(s *state) { s.begins(1, writer1, writer2); s.kills, s.cuts = 0, 1 },
	"writers of an absent blob":    func(s *state) { s.absent(); s.begins(1, writer1, writer2); s.cuts = 1 },
	"two digests":                  func(s *state) { s.begins(1, writer1, writer2, asker); s.tasks[writer2].seen = 1; s.kills = 1 },
	"reader, writer, cleaner":      func(s *state) { s.begins(1, reader, writer1); s.cuts = 1 },
	"asker, reader, cleaner twice": func(s *state) { s.begins(2, asker, reader, rotator); s.cuts = 1 },
	"writer, rotation, cleaner twice": func(s *state) {
		s.absent()
		s.begins(2, writer1, asker, rotator)
		s.cuts = 1
	},
	"open extent at sealing":          func(s *state) { s.absent(); s.begins(0, writer1, writer2, rotator); s.kills, s.cuts = 1, 1 },
	"update, rotation, cleaner twice": func(s *state) { s.begins(2, updater, rotator); s.cuts = 1 },
	"used result, update, rotation":   func(s *state) { s.entries[keyK].used = true; s.begins(2, updater, rotator); s.cuts = 1 },
	"update, get, cleaner":            func(s *state) { s.entries[keyK].used = true; s.begins(1, updater, getter); s.cuts = 1 },
	"group: rotation": func(s *state) {
		s.group = true
		s.absent()
		s.begins(1, writer1, writer2, rotator)
		s.kills, s.cuts = 1, 1
	},
	"group: failing sync, update": func(s *state) {
		s.group = true
		s.absent()
		s.begins(0, writer1, updater, rotator)
		s.cuts, s.failures = 1, 1
	},
	"group: late upload, update":    func(s *state) { s.group = true; s.absent(); s.begins(1, writer1, updater, rotator); s.cuts = 1 },
	"update, get, writer, absent":   func(s *state) { s.absent(); s.begins(0, updater, getter, writer1); s.cuts = 1 },
	"update, cleaner, failing sync": func(s *state) { s.begins(1, updater); s.cuts, s.failures = 1, 1 },
	"writers, failing sync":         func(s *state) { s.absent(); s.begins(0, writer1, writer2); s.cuts, s.failures = 1, 1 },
	"two crashes, cleaner twice":    func(s *state) { s.absent(); s.begins(2, writer1); s.cuts = 2 },
	"leases: two askers, kill":      func(s *state) { s.begins(1, asker, asker2); s.kills = 1 },
	"leases: two kills":             func(s *state) { s.begins(1, asker, getter); s.kills = 2 },
	"leases: asker, power cut":      func(s *state) { s.begins(1, asker); s.cuts, s.kills = 1, 1 },
	"leases: moved, kill":           func(s *state) { s.absent(); s.begins(3, writer1, rotator); s.kills = 1 },
	"leases: quarter, kill":         func(s *state) { s.begins(1, asker, asker2, clock); s.kills = 1 },
	"leases: late upload, kill": func(s *state) {
		s.absent()
		s.begins(3, writer1, rotator, clock)
		s.kills = 1
	},
	"everything": func(s *state) {
		s.begins(1, writer1, asker, updater, rotator)
		s.kills, s.cuts = 1, 1
	},
	"everything, leases": func(s *state) {
		s.absent()
		s.begins(2, writer1, asker, getter, rotator, clock)
		s.kills = 2
	},
	"everything, group": func(s *state) {
		s.group = true
		s.absent()
		s.begins(1, writer1, updater, asker, rotator)
		s.kills, s.cuts, s.failures = 1, 1, 1
	},
	"quarantine": func(s *state) {
		s.segments[0].records[0].damaged = true
		s.begins(1, checker, rotator, writer1)
		s.kills, s.cuts = 1, 1
	},
	"quarantine, used": func(s *state) {
		s.segments[0].records[0].damaged = true
		s.entries[keyD].used = true
		s.begins(1, checker)
		s.kills = 1
	},
	"root: keep":             func(s *state) { s.rooted(0); s.begins(2, keeper, rotator); s.kills, s.cuts = 1, 1 },
	"root: keep, writer":     func(s *state) { s.absent(); s.rooted(0); s.begins(1, keeper, writer1); s.kills, s.cuts = 1, 1 },
	"root: replace":          func(s *state) { s.rooted(1); s.begins(2, keeper, rotator); s.kills, s.cuts = 1, 1 },
	"root: release":          func(s *state) { s.rooted(2); s.begins(2, keeper, rotator); s.kills, s.cuts = 1, 1 },
	"root: two crashes":      func(s *state) { s.rooted(1); s.begins(2, keeper); s.kills, s.cuts = 1, 1 },
	"root: failing sync":     func(s *state) { s.rooted(0); s.begins(1, keeper); s.cuts, s.kills, s.failures = 1, 1, 1 },
	"root: replace, failing": func(s *state) { s.rooted(1); s.begins(1, keeper); s.cuts, s.kills, s.failures = 1, 1, 1 },
	"root: group, late upload": func(s *state) {
		s.group = true
		s.absent()
		s.rooted(0)
		s.begins(1, writer1, keeper, rotator)
		s.cuts = 1
	},
	"root: group, failing sync": func(s *state) {
		s.group = true
		s.absent()
		s.rooted(0)
		s.begins(0, writer1, keeper, rotator)
		s.cuts, s.failures = 1, 1
	},
}

// losses are the rules, each with the kind of loss that comes without it and a scenario that shows it.
var losses = []struct{ rule, scenario, loss string }{
	{"RefInPin", "asker, reader, cleaner twice", "OpenHolds: the file is gone under a pin"},
	{"StampInSection", "asker, reader, cleaner twice", "YesStands: what was promised can't be read"},
	{"CondemnRechecks", "asker, reader, cleaner twice", "YesStands: what was promised can't be read"},
	{"CopySynced", "asker, reader, cleaner twice", "CrashSafe: what was promised is gone"},
	{"CopyVerified", "quarantine, used", "Quarantine: the ledger names damaged bytes"},
	{"SwitchCompares+Slot", "update, get, cleaner", "OldResult: an older one replaces what was published"},
	{"Slot", "used result, update, rotation", "CrashSafe: a superseded result is back"},
	{"InOrder", "update, rotation, cleaner twice", "CrashSafe: a superseded result is back"},
	{"DirSyncCreate", "writer, rotation, cleaner twice", "GenerationReused: a place means two incarnations"},
	{"DirSyncRemove", "update, rotation, cleaner twice", "CrashSafe: a superseded result is back"},
	{"DropCompares", "update, get, writer, absent", "YesStands: an acknowledged result is gone"},
	{"Chain", "writers of an absent blob", "CrashSafe: what was promised is gone"},
	{"RefuseVictim", "writer, rotation, cleaner twice", "RingIsDisk: the ledger names a segment that is removed"},
	{"BadFails", "writers, failing sync", "CrashSafe: what was promised is gone"},
	{"FirstWins", "writers of an absent blob", "FirstWins: a blob was replaced"},
	{"PublishAfterSync", "writers of an absent blob", "CrashSafe: what was promised is gone"},
	{"UpdatePins", "update, get, cleaner", "Complete: a result was acknowledged, and what it names is gone"},
	{"BodySum", "update, get, cleaner", "NoFalseYes: start-up takes for whole what is not"},
	{"FreshGeneration", "two crashes, cleaner twice", "GenerationReused: a place means two incarnations"},
	{"OpenListed", "open extent at sealing", "NoFalseYes: start-up takes for whole what is not"},
	{"OpenHashed", "open extent at sealing", "NoFalseYes: start-up takes for whole what is not"},
	{"BlobsFirst", "group: late upload, update", "CrashSafe: a result is there, and what it names is gone"},
	{"BadBlocks", "group: failing sync, update", "CrashSafe: a result is there, and what it names is gone"},
	{"FooterAfterSync", "group: rotation", "NoFalseYes: start-up takes for whole what is not"},
	{"LeasesLogged", "leases: two askers, kill", "YesStands: what was promised can't be read"},
	{"LogBeforeYes", "leases: two askers, kill", "YesStands: what was promised can't be read"},
	{"EveryAsker", "leases: two askers, kill", "YesStands: what was promised can't be read"},
	{"OldSegmentLogged", "leases: late upload, kill", "YesStands: what was promised can't be read"},
	{"CleanerLogs", "leases: moved, kill", "YesStands: what was promised can't be read"},
	{"LogsLive", "leases: quarter, kill", "YesStands: what was promised can't be read"},
	{"LogsCarried", "leases: two kills", "YesStands: what was promised can't be read"},
	{"BootChecked", "leases: asker, power cut", "YesStands: what was promised can't be read"},
	{"VoidObeyed", "quarantine", "Quarantine: what was found damaged is back"},
	{"VoidSynced", "quarantine", "Quarantine: what was found damaged is back"},
	{"KeptBeforeRoot", "root: keep", "Kept: a root was published, and what it holds is gone"},
	{"RootKept", "root: keep", "Kept: a published root is gone"},
	{"LetGoAfter", "root: release", "Kept: a root is there, and what it holds is gone"},
	{"FailedStays", "root: failing sync", "Kept: a root is there, and what it holds is gone"},
	{"RootsMarked", "root: replace", "Kept: a published root is gone"},
}

// limit is how many states a scenario may have.
const limit = 3_000_000

func explore(t *testing.T, r rules, scenario string) (found result) {
	t.Helper()
	change, ok := scenarios[scenario]
	if !ok {
		t.Fatalf("there is no scenario %q", scenario)
	}
	began := time.Now()
	synctest.Test(t, func(t *testing.T) { found = search(begin(change), limit, newRing(r).next) })
	if found.full {
		t.Errorf("%s: more than %d states", scenario, limit)
	}
	if os.Getenv("SARSEN_LOG") != "" {
		t.Logf("%s: %d states in %v", scenario, found.states, time.Since(began))
	}
	return found
}

// TestNothingIsLost: with all rules, no interleaving and no crash loses anything.
func TestNothingIsLost(t *testing.T) {
	states := 0
	for _, name := range slices.Sorted(maps.Keys(scenarios)) {
		found := explore(t, without(), name)
		states += found.states
		for loss, way := range found.losses {
			t.Errorf("%s: %s\n%s", name, loss, steps(way))
		}
	}
	t.Logf("exhaustive: %d scenarios, %d states", len(scenarios), states)
}

func steps(way []string) string {
	var b strings.Builder
	for i, step := range way {
		fmt.Fprintf(&b, "  %2d. %s\n", i+1, step)
	}
	return b.String()
}

// TestEachRuleIsNeeded takes each rule away, and finds the loss.
func TestEachRuleIsNeeded(t *testing.T) {
	left := map[string]bool{}
	for _, rule := range ruleNames() {
		left[rule] = true
	}
	for _, c := range losses {
		taken := strings.Split(c.rule, "+")
		for _, rule := range taken {
			delete(left, rule)
		}
		found := explore(t, without(taken...), c.scenario)
		way := found.losses[c.loss]
		if way == nil {
			t.Errorf("without %s, %s: losses are %q in %d states, want %s", c.rule, c.scenario, slices.Sorted(maps.Keys(found.losses)), found.states, c.loss)
			continue
		}
		t.Logf("without %s, %s: %s\n%s", c.rule, c.scenario, c.loss, steps(way))
	}
	for rule := range left {
		t.Errorf("no line of the table takes %s away", rule)
	}
}
