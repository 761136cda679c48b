package compiler

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/sarsen-build/sarsen/compiler/args"
	"github.com/sarsen-build/sarsen/compiler/launch"
	"github.com/sarsen-build/sarsen/digest"
)

// A job is one compile.
type job struct {
	daemon   *Daemon
	peer     *peer
	ask      *launch.Ask
	env      map[string]string
	command  *args.Command
	identity *identity
	source   content
	key      digest.Digest // of the manifest
	fields   []field       // what key was made of

	preprocessed digest.Digest // of the entry, if the preprocessor ran
	textBegan    int64         // when it did, in nanoseconds since 1970
	hit          bool          // its outputs are an entry's
	failedThere  string        // how the server's compiler failed
	miss         string        // the counter of what was missing
	nearest      []string      // what differs from the nearest result
}

// ReadFile implements args.Source.
func (j *job) ReadFile(name string) ([]byte, error) { return os.ReadFile(j.path(name)) }

// LookupEnv implements args.Source.
func (j *job) LookupEnv(name string) (string, bool) {
	value, set := j.env[name]
	return value, set
}

// path returns the absolute path of a name that the compiler has.
func (j *job) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return j.ask.Dir + "/" + name
}

// compile answers one launcher.
func (d *Daemon) compile(ctx context.Context, p *peer, ask *launch.Ask) {
	j := &job{daemon: d, peer: p, ask: ask, env: map[string]string{}}
	for _, entry := range ask.Env {
		name, value, _ := strings.Cut(entry, "=")
		j.env[name] = value
	}
	rest := p.work()
	reason := j.prepare()
	if reason == isSplit {
		rest()
		p.send(launch.Split, j.parts())
		return
	}
	if reason != "" {
		rest()
		d.count(reason)
		p.send(launch.Pass, nil)
		return
	}
	e, counter := j.find(ctx)
	rest()
	if e == nil && j.mode() == ModePreprocess {
		e, counter = j.preprocess(ctx)
	}
	if e != nil {
		j.deliver(e, counter)
		return
	}
	d.count(j.miss)
	d.past.note(j)
	e, leave := j.execute(ctx)
	defer leave()
	if e != nil {
		j.deliver(e, executedThere)
		return
	}
	j.run(ctx)
}

// The modes: what happens when the headers of no result match.
const (
	ModeDepend     = "depend"     // the compiler runs
	ModePreprocess = "preprocess" // the preprocessor does, and what it prints is looked up
)

func (j *job) mode() string {
	mode := j.env["SARSEN_CC_MODE"]
	if mode == "" {
		mode = j.daemon.o.Mode
	}
	f := &j.command.Flags
	columns := f.Debug || f.Coverage || slices.ContainsFunc(j.command.Hashed, func(a string) bool {
		return strings.HasPrefix(a, "-fsanitize") // the object says in which column something stands
	})
	if mode == ModePreprocess && !columns && j.command.PreprocessArgv() != nil {
		return ModePreprocess
	}
	return ModeDepend
}

// isSplit is prepare's reason for a command with several sources. It is no counter: each of them is asked for.
const isSplit = "several sources"

// maxSplit bounds the arguments of a command that is compiled in parts, in bytes: systems take no more than some.
const maxSplit = 64 << 10

func length(argv []string) (n int) {
	for _, a := range argv {
		n += len(a) + 1
	}
	return n
}

// prepare reads the command line and makes the manifest's key. It returns the counter of the reason if
// the compiler is to run as it was called.
func (j *job) prepare() string {
	d := j.daemon
	if j.ask.View != d.view || !j.peer.group {
		return passView
	}
	dialect, ok := d.ids.dialect(j.ask.Compiler)
	if !ok {
		return passCompiler
	}
	command, err := args.Parse(dialect, j.rebase(j.ask.Args), j)
	var uncacheable *args.Uncacheable
	if errors.As(err, &uncacheable) {
		return "pass." + string(uncacheable.Reason)
	}
	if err != nil {
		return passError
	}
	j.command = command
	if len(command.Sources) != 1 {
		if length(command.Argv) > maxSplit {
			return "pass." + string(args.ResponseFile) // the parts have none
		}
		return isSplit
	}
	if command.Flags.CreatesPCH || command.Flags.UsesPCH {
		return "pass." + string(args.PrecompiledHeaders)
	}
	if slices.Contains(command.Argv, "-H") { // which says here what headers there are
		return "pass." + string(args.TooHard)
	}
	if j.special() {
		return "pass." + string(args.Device)
	}
	if j.source, err = d.files.digest(j.path(command.Sources[0])); err != nil {
		return passSource
	}
	j.source.quoted, j.source.angled, j.source.probed = slices.Clip(j.source.quoted), slices.Clip(j.source.angled), slices.Clip(j.source.probed)
	j.source.scan([]byte(strings.Join(command.Preprocessor, "\n"))) // what -D says may stand in the source
	if j.source.traits&(hasIncbin|hasHidden) != 0 {
		return passHidden
	}
	if j.timed(j.source.traits) && j.mode() == ModeDepend {
		return passTime
	}
	for _, name := range command.ExtraFiles {
		if _, err := d.files.digest(j.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return passExtra
		}
	}
	if j.identity, err = d.ids.of(j); errors.Is(err, errScript) {
		return passScript
	}
	if errors.Is(err, errSpecs) {
		return passExtra
	}
	if err != nil {
		d.log.Warn("compiler", "error", err)
		return passCompiler
	}
	k := j.manifestKey()
	j.key, j.fields = k.digest(), k.fields
	return ""
}

// manifestKey returns the key of the manifest, of files as they are.
func (j *job) manifestKey() *key {
	k := newKey("manifest")
	j.common(k, true)
	k.add("source name", j.command.Sources[0])
	k.add("source", j.source.digest.String())
	return k
}

// special reports whether the command names files that this process would not find by their names.
func (j *job) special() bool {
	c := j.command
	names := slices.Concat(c.Sources, c.Includes, c.ExtraFiles)
	for _, dir := range c.IncludeDirs {
		names = append(names, dir.Path+"/")
	}
	for _, o := range c.Outputs {
		names = append(names, o.Path)
	}
	return slices.ContainsFunc(names, special)
}

// isFile reports whether there is a regular file of that name.
func (j *job) isFile(name string) bool {
	s, err := stampOf(j.path(name))
	return err == nil && s.mode.IsRegular()
}

// parts returns the answer to a command with several sources.
func (j *job) parts() []byte {
	answer := launch.Answer{Unset: j.command.Unset, Jobs: max(1, j.command.Jobs)}
	if j.command.Jobs < 0 {
		answer.Jobs = runtime.NumCPU()
	}
	for _, part := range j.command.Split() {
		answer.Parts = append(answer.Parts, part.Argv)
	}
	return answer.Encode()
}

// rebase makes paths under SARSEN_CC_BASE_DIR relative to the compiler's directory, so that checkouts in several
// places share entries. The compiler is run with them too: its messages and dependency files have them.
func (j *job) rebase(arguments []string) []string {
	base := j.env["SARSEN_CC_BASE_DIR"]
	if base == "" || base == "/" || !filepath.IsAbs(base) {
		return arguments
	}
	base = filepath.Clean(base)
	rebased := make([]string, len(arguments))
	for i, a := range arguments {
		rebased[i] = a
		at := strings.Index(a, base)
		if at < 0 || at > 0 && !slices.Contains(rebasable, a[:at]) {
			continue
		}
		if rest := a[at+len(base):]; rest != "" && rest[0] != '/' {
			continue
		}
		if relative, err := filepath.Rel(j.ask.Dir, a[at:]); err == nil {
			rebased[i] = a[:at] + relative
		}
	}
	return rebased
}

// rebasable are options that are written together with the path that they take.
var rebasable = []string{
	"-I", "-F", "-L", "-B", "-o", "-MF", "-MT", "-MQ", "-iquote", "-isystem", "-idirafter", "-include", "-imacros", "-iframework",
	"--sysroot=", "-isysroot", "/I", "/Fo", "/FI", "-Fo", "-FI", "-imsvc", "/external:I",
}

// timed reports whether a file with these traits gives another result at another time of day.
func (j *job) timed(t trait) bool {
	return t&hasTimestamp != 0 || t&hasTime != 0 && j.env["SOURCE_DATE_EPOCH"] == ""
}

// date returns what a result depends on whose files have these traits.
func (j *job) date(t trait, at time.Time) string {
	switch epoch := j.env["SOURCE_DATE_EPOCH"]; {
	case t&(hasDate|hasTime) == 0:
		return ""
	case epoch != "":
		return "epoch " + epoch
	}
	zone, set := j.env["TZ"]
	if !set {
		return at.Format(time.DateOnly)
	}
	place, err := time.LoadLocation(strings.TrimPrefix(zone, ":"))
	if err != nil || zone == "Local" {
		return at.Format(time.RFC3339Nano) // nobody knows which day it is there
	}
	return at.In(place).Format(time.DateOnly)
}

// find looks for the entry in manifests, here and on the server. It returns nil after a miss.
func (j *job) find(ctx context.Context) (*entry, string) {
	if j.env["SARSEN_CC_RECACHE"] != "" {
		j.miss = missForced
		return nil, ""
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	j.miss = missNew
	e := j.try(ctx, j.daemon.entries.manifest(ctx, j.key))
	if e == nil && j.miss != missEvicted {
		if m, err := j.daemon.entries.farManifest(ctx, j.key); err == nil {
			e = j.try(ctx, m)
		}
	}
	return e, hitDirect
}

// try looks for the entry in one manifest.
func (j *job) try(ctx context.Context, m *manifest) *entry {
	if m == nil {
		return nil
	}
	memo, look := map[string]digest.Digest{}, j.daemon.dirs.look()
	for _, r := range m.results {
		if !j.matches(r, memo, look) {
			continue
		}
		e, far, err := j.daemon.entries.get(ctx, r.Entry)
		if err != nil || !j.whole(e) {
			j.miss = missEvicted
			continue
		}
		if far {
			j.daemon.count(hitRemote)
		}
		return e
	}
	return nil
}

// matches reports whether everything is as it was when r was made, and notes what is not.
func (j *job) matches(r *result, memo map[string]digest.Digest, look *look) bool {
	var differ []string
	for _, f := range r.Files {
		now, ok := memo[f.Name]
		if !ok {
			now = j.now(f.Name)
			memo[f.Name] = now
		}
		if now != f.Digest {
			differ = append(differ, f.Name)
			if len(j.nearest) > 0 && len(differ) >= len(j.nearest) {
				return false
			}
		}
	}
	if len(differ) > 0 {
		j.miss, j.nearest = missHeader, differ
		return false
	}
	for i := range r.Absent {
		if g := &r.Absent[i]; !g.holds(j, look) {
			j.miss, j.nearest = missAbsent, []string{g.Dir}
			return false
		}
	}
	traits := trait(0)
	if r.Date != "" {
		traits = hasDate
	}
	if r.Date != j.date(traits, time.Now()) {
		j.miss, j.nearest = missDate, []string{r.Date}
		return false
	}
	return true
}

// now returns the digest of a file as it is. All that is no file has the same one.
func (j *job) now(name string) digest.Digest {
	c, err := j.daemon.files.digest(j.path(name))
	if err != nil {
		return digest.Digest{Function: digest.SHA256}
	}
	return c.digest
}

// preprocess lets the launcher run the preprocessor and looks up what it printed.
func (j *job) preprocess(ctx context.Context) (*entry, string) {
	answer := launch.Answer{Argv: j.command.PreprocessArgv(), Unset: j.command.Unset}
	if j.peer.send(launch.Preprocess, answer.Encode()) != nil {
		return nil, ""
	}
	kind, body, err := j.peer.receive(0)
	var report launch.Report
	if err != nil || kind != launch.Preprocessed || report.Decode(body) != nil || report.Status != 0 {
		return nil, ""
	}
	if len(report.Stderr) > 0 || bytes.Contains(report.Stdout, []byte("__builtin_COLUMN")) ||
		bytes.Contains(report.Stdout, []byte("__builtin_source_location")) {
		return nil, "" // comments, macros and columns matter, which do not follow from what it prints
	}
	if traitsOf(report.Stdout)&(hasIncbin|hasHidden) != 0 {
		return nil, "" // it only names what is read later
	}
	j.textBegan = report.Began
	defer j.peer.work()()
	k := newKey("preprocessed")
	j.common(k, false)
	k.add("source name", j.command.Sources[0])
	k.add("text", digest.SHA256.Of(report.Stdout).String())
	j.preprocessed = k.digest()
	if j.env["SARSEN_CC_RECACHE"] != "" {
		return nil, ""
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	e, far, err := j.daemon.entries.get(ctx, j.preprocessed)
	if err != nil || !j.whole(e) {
		return nil, ""
	}
	if far {
		j.daemon.count(hitRemote)
	}
	if r, reason := j.resultOf(lineMarkers(report.Stdout), report.Began); reason == "" {
		r.Entry = j.preprocessed
		j.daemon.entries.learn(ctx, j.key, r)
	}
	return e, hitPreprocessed
}
