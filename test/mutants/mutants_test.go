package mutants

import (
	"errors"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// caught says which test of which package must fail for each mistake, and what it must say.
var caught = []struct {
	mutant, pkg, test string
	says              string // a regular expression
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
	{"RecordUnleased", "segment", "TestRecordLeased", "after eviction, in its lease"},
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

	{"NoTurn", "segment", "TestRaceRing", "which is not in the ring|nil pointer"},
	{"SealUnsynced", "segment", "TestEveryCrashImage/rotate_with_open_uploads", "stored bytes are corrupt"},
	{"AbortVictim", "segment", "TestSeeded/NoFalseYes", "which is not in the ring"},
	{"MoveUnsynced", "segment", "TestRaceCopyAndPowerCut", "after a power cut: a yes did not stand"},

	{"RootFirst", "segment", "TestSeededKeeper/KeepOrMissing", "a yes did not stand"},
	{"ChangeBlind", "segment", "TestSeededKeeper/AddAdd", "lost update: three"},
	{"ReleaseFirst", "segment", "TestRaceRelease", "and has a hole"},
	{"MarkLate", "segment", "TestRestartMarks", "a root did not hold over a restart"},
	{"HoleKept", "segment", "TestKeeper/KeepsNoHole", "want a MissingError"},
	{"BusyDropped", "backup", "TestBusyStore", "while nothing can be opened: got 200"},

	{"ChunkUnheld", "backup/pbs", "TestRaceCollector", "can't be finished"},
	{"DuplicateUnheld", "backup/pbs", "TestRaceDuplicate", "can't be finished"},
	{"PreviousUnheld", "backup/pbs", "TestRaceKnownChunk", "can't be finished"},
	{"HoldSwapped", "backup/pbs", "TestRaceLongSession", "the upload of a chunk"},
	{"ChangeUnlocked", "backup/pbs", "TestRaceForget", "is there again"},
	{"ChunkBelieved", "backup/pbs", "TestWrongChunks", "a wrong digest = <nil>"},
	{"MissingForgotten", "backup/pbs", "TestMissingForAWhile", "a change of a snapshot of which a blob seems to be missing = <nil>"},

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

	{"LinkUnpinned", "files", "TestSeededLink", "OpenHolds: "},
	{"SizeOnly", "files", "TestSeeded/Immutable", "Immutable: Commit of wrong bytes"},
	{"LoserRemoves", "files", "TestSeeded/FirstWins", "FirstWins: a yes did not stand"},
	{"BootIgnored", "files", "TestRestart", "after a power cut: Stats"},

	{"TreeBelieved", "worker/stage", "TestLyingTree", "lie should not be there"},
	{"NeverLands", "worker/stage", "TestHandOver", hangs},
	{"NoSecondLook", "worker/stage", "TestSecondLook", "want once"},
	{"LogUnsummed", "worker/stage", "TestTornLog", "want fewer than 5"},
	{"NamedTwice", "worker/stage", "TestHostile/twice", "want ErrInvalid"},
	{"FirstMissing", "worker/stage", "TestMissing", "is not named as missing"},
	{"AckEarly", "tier", "TestAcknowledged", "acknowledged before they are far"},
	{"ClimbUnpinned", "tier", "TestBack", "evicted before it climbed"},
	{"LeaderPoisons", "tier", "TestHandOver", "readers failed"},
	{"RecordOvertaken", "tier", "TestOvertaken", "want newer"},
	{"FilledBlind", "tier", "TestEvictedAgain", "not found"},
	{"ClimbsOnce", "tier", "TestBackAway", "evicted before it climbed"},
	{"FillOvertakes", "tier", "TestFillOvertakes", "after a newer one was acknowledged"},
	{"FarHidden", "tier", "TestFarHidden", "newer was acknowledged"},
	{"PublishApart", "worker/stage", "TestPublishedAtOnce", "want no directory to be fetched"},

	{"LinkFollowed", "worker/collect", "TestSwappedBeforeOpen/link", "bytes from outside of the root were stored"},
	{"PipeAwaited", "worker/collect", "TestSwappedBeforeOpen/pipe", hangs},
	{"SetuidKept", "worker/collect", "TestNodeProperties", "unix_mode"},
	{"UploadIgnored", "worker/collect", "TestStoreFails", "got <nil>, want"},
	{"ChangeUnseen", "worker/collect", "TestChangedAfterOpen", "got <nil>, want"},

	{"NetworkShared", "worker/sandbox", "TestHostile/reaches_the_network", "ECONNREFUSED"},
	{"PrivilegesGained", "worker/sandbox", "TestHostile/gains_privileges", "NoNewPrivs: 0"},
	{"FilesOwned", "worker/sandbox", "TestHostile/makes_an_input_writable", "the shared file: got"},
	{"LeftBehind", "worker/sandbox", "TestNothingLeft", "a process that was left behind wrote"},

	{"BatchBelieved", "upstream", "TestLies", "want ErrCorrupt"},
	{"StreamBelieved", "upstream", "TestLies", "want ErrCorrupt"},
	{"RangesBelieved", "upstream", "TestLies", "want ErrCorrupt"},
	{"RangesSwapped", "upstream", "TestCopy", "17825793 written"},

	{"AbsentForgotten", "compiler", "TestInputs/this_directory/depend", "x.o is not what the compiler alone writes"},
	{"ProbeForgotten", "compiler", "TestInputs/probed_header_goes/depend", "x.o is not what the compiler alone writes"},
	{"TwinForgotten", "compiler", "TestInputs/twin_of_an_imported_header/depend", "x.o is not what the compiler alone writes"},
	{"FreshTrusted", "compiler", "TestChangedMeanwhile", "want \"miss.new not_stored.header_too_new\""},
	{"TextBelieved", "compiler", "TestChangedBetween", "x.o is not what the compiler alone writes"},
	{"AssemblerBelieved", "compiler", "TestInputs/assembly_in_pieces/depend", "x.o is not what the compiler alone writes"},
	{"ArgumentDropped", "compiler", "TestStale/argument", "counted \"hit.direct\""},
	{"VariableDropped", "compiler", "TestDate", "counted \"miss.date\", want \"miss.new\""},
	{"DirectoryDropped", "compiler", "TestDirectory", "counted \"hit.direct\", want \"miss.new\""},
	{"DriverOnly", "compiler", "TestTwoInstallations", "x.o is not what the compiler alone writes"},
	{"WritersIgnored", "compiler", "TestOneOutput", "x.o is not what the compiler alone writes"},
	{"ResultFirst", "compiler", "TestBack", "want \"miss.new\""},
	{"PartTaken", "compiler", "TestWhole", "no object: got true, want false"},
	{"SourceReplaced", "compiler", "TestSourceAsOutput", "the source is"},
	{"ManifestReplaced", "compiler", "TestBack", "want \"hit.direct\""},
	{"CountLost", "compiler", "TestCounters", "want ten counters of"},
	{"YesStands", "s3", "TestExhaustive/ask,_other_collects", "YesStands: the object is gone"},
	{"KeyReused", "s3", "TestExhaustive/put,_other_collects", "YesStands: the object is gone"},
	{"UploadUndefended", "s3", "TestExhaustive/late_put", "YesStands: the object is gone"},
	{"WaitersFail", "s3", "TestExhaustive/put_put_fails", "HandOver: "},
	{"RefusalsIgnored", "s3", "TestExhaustive/ask,_other_collects", "YesStands: the object is gone"},
	{"KeepUnpinned", "s3", "TestExhaustive/keep", "CollectorSpares: root"},
	{"RootsOnce", "s3", "TestExhaustive/keep_and_crash,_collector_stopped", "CollectorSpares: root"},
	{"RootUnfenced", "s3", "TestExhaustive/keep,_stopped", "CollectorSpares: root"},
	{"RootOvertaken", "s3", "TestExhaustive/add_add", "lost update: root"},
	{"SupersededEarly", "s3", "TestSupersededStays", "lost update: KeepIf"},
	{"OneListing", "s3", "TestExhaustive/begin", "YesStands: the object is gone"},
	{"DamageIgnored", "s3", "TestDamagedRoot/flipped", "CollectorSpares: "},
	{"RecordUnleased", "s3", "TestRecordLeased", "in its lease, after a collection"},
	{"AdoptBlind", "s3", "TestExhaustive/find", "CollectorSpares: root"},
	{"RedisSaysYes", "redis", "TestStale", "Missing = 0"},
	{"RedisUnhashed", "redis", "TestForged", "other bytes"},
	{"RedisOlder", "redis", "TestOlder", "want the newest"},
	{"RedisLate", "redis", "TestAcknowledged", "acknowledged, and not announced"},
	{"UndecidedGone", "s3", "TestUndecided", "ErrUnavailable"},
	{"AdoptBlind", "redis", "TestCollectedMeanwhile", "YesStands"},
	{"DeadLeases", "s3", "TestExhaustive/ask_and_crash", "YesStands: the object is gone"},
	{"ShortFence", "s3", "TestExhaustive/put,_ask,_stopped", "YesStands: the object is gone"},
	{"DeleteFirst", "s3", "TestExhaustive/collector_crashes,_late_delete", "YesStands: the object is gone"},
	{"RegisterUnfenced", "s3", "TestExhaustive/collector_stopped", "YesStands: the object is gone"},

	{"AssetHole", "asset", "TestComplete", "want ErrNotFound"},
	{"AssetDropLatest", "asset", "TestPushedMeanwhile", "nothing is downloaded here"},
	{"MappingHole", "chunk/mapping", "TestHole", "which is not there"},
	{"MappingUnhashed", "chunk/mapping", "TestSplitDamaged", "want ErrCorrupt"},
	{"MappingBelieved", "chunk/mapping", "TestSpliceMismatch", "want ErrMismatch"},

	{"EpochApart", "httpcache", "TestSeededFirst", "were told that theirs was stored"},
	{"OnceApart", "httpcache", "TestSeededFirst", "were told that theirs was stored"},
	{"EpochKept", "httpcache", "TestSeededClean", "after clean: got"},
	{"EpochGuessed", "httpcache", "TestEpochEvicted", "of the one before"},
	{"RecordUnleased", "httpcache", "TestEvictedEntries", "got epoch"},
	{"CutStored", "httpcache", "TestAborted", "want 400"},
	{"NarinfoAlone", "httpcache", "TestNarURLs", "got 200, want 404"},

	{"SealBelieved", "gocache", "TestDamage/a_bit_of_the_output", "want a miss"},
	{"InlineBelieved", "gocache", "TestLyingServer", "want a miss"},
	{"RunForgotten", "gocache", "TestTrimSparesRunning", "action 1: "},
	{"VictimUsed", "gocache", "TestVictimUsed", "action 1: "},
	{"PartBuried", "gocache", "TestBuryDeadOnly", "no such file"},

	{"ValueCut", "ccachestorage", "TestServerBreaksOff", hangs},
	{"RestUnread", "ccachestorage", "TestServerIsSilent", "hung up"},
	{"SocketShared", "ccachestorage", "TestSocket", "want it for its owner alone"},

	{"ManyTry", "internal/breaker", "TestBreaker", "while one tries: allowed: got true"},
}

// hangs is what a test says that waits for ever. It gets less time than others.
const hangs = "test timed out"

func TestMutants(all *testing.T) {
	binaries := map[string]string{}
	for _, c := range caught {
		all.Run(c.mutant, func(t *testing.T) {
			binary, ok := binaries[c.pkg]
			if !ok {
				binary = build(t, all.TempDir(), c.pkg)
				binaries[c.pkg] = binary
				if out, err := run(binary, c.pkg, "", testsOf(c.pkg), 10*time.Minute, "-test.short"); err != nil {
					t.Fatalf("the tests of %s fail without any mistake: %v\n%s", c.pkg, err, out)
				}
			}
			limit := time.Minute
			if c.says == hangs {
				limit = 5 * time.Second
			}
			out, err := run(binary, c.pkg, c.mutant, "^"+strings.ReplaceAll(c.test, "/", "$/^")+"$", limit, "-test.v")
			if err == nil && strings.Contains(out, "SKIPPED: ") && os.Getenv("CI") != "true" {
				t.Skipf("SKIPPED: this host can't run the test:\n%s", out)
			}
			var exit *exec.ExitError
			if !errors.As(err, &exit) {
				t.Fatalf("%s survived %s of %s: %v", c.mutant, c.test, c.pkg, err)
			}
			if !regexp.MustCompile(c.says).MatchString(out) {
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

func build(t *testing.T, dir, pkg string) string {
	binary := filepath.Join(dir, path.Base(pkg)+".test")
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
	if mutant != "" {
		cmd.Env = append(cmd.Env, "SARSEN_FAULTS=all") // two crash images may miss it
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}
