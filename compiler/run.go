package compiler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/compiler/args"
	"github.com/sarsen-build/sarsen/compiler/launch"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
)

// grain is how far a file's times may lie behind the clock.
const grain = 10 * time.Millisecond

// maxOutput bounds an output that is kept, in bytes.
const maxOutput = 256 << 20

// run lets the launcher run the compiler and keeps what it gave.
func (j *job) run(ctx context.Context) {
	d := j.daemon
	answer := launch.Answer{Unset: j.command.Unset}
	deps := j.dependencies(&answer)
	if deps != "" && deps != j.command.DepFile {
		defer os.Remove(deps)
	}
	assembler := j.assemblerFile()
	if assembler != "" {
		answer.Argv = append([]string{"-Xassembler", "--MD", "-Xassembler", assembler}, answer.Argv...)
		defer os.Remove(assembler)
	}
	d.writers.begin(j)
	defer d.writers.end(j)
	if j.peer.send(launch.Run, answer.Encode()) != nil {
		return
	}
	kind, body, err := j.peer.receive(0)
	var report launch.Report
	if err != nil || kind != launch.Done || report.Decode(body) != nil {
		d.count(notLeft)
		return
	}
	j.compare(&report)
	rest := j.peer.work()
	if reason := j.keep(ctx, &report, deps, assembler); reason != "" {
		d.count(reason)
	} else {
		d.count(stored)
	}
	rest()
	d.writers.end(j) // before the launcher goes, and the next compile comes
	j.peer.send(launch.Stored, nil)
}

// dependencies sets the command that also says which headers are read, and returns the dependency file
// that will, "" if there is none.
func (j *job) dependencies(answer *launch.Answer) string {
	c := j.command
	var file string
	switch {
	case c.Flags.NoPreprocessor:
		answer.Argv = c.CompileArgv("")
	case c.DepMode == "-MD":
		answer.Argv, file = c.CompileArgv(""), c.DepFile
	case c.DepMode == "-MMD": // which leaves system headers out
		answer.Argv = c.CompileArgv("")
		if answer.Headers = j.listsHeaders(); answer.Headers {
			answer.Argv = append([]string{"-H"}, answer.Argv...)
		}
	case j.records():
		answer.Argv = c.CompileArgv("")
	default:
		file = j.daemon.tempName(j.daemon.temp)
		answer.Argv = c.CompileArgv(file)
	}
	if j.colour() != "" {
		answer.Argv = append([]string{"-fdiagnostics-color=always"}, answer.Argv...)
	}
	return file
}

// listsHeaders reports whether -H does nothing but list headers. gcc writes it into debug information, where
// the command line stands, and clang names system headers in the dependency file because of it.
func (j *job) listsHeaders() bool {
	c := j.command
	return !c.Dialect.Clang() && !c.Flags.Debug && !slices.ContainsFunc(c.Argv, func(a string) bool {
		return strings.HasPrefix(a, "-f") && strings.Contains(a, "record") || strings.Contains(a, "-imacros") // whose headers it omits
	})
}

// askDependencies preprocesses the source again, for the names of all headers.
func (j *job) askDependencies() ([]string, error) {
	question := j.command.PreprocessArgv()
	switch j.command.Dialect {
	case args.MSVC:
		text, err := j.query(question...)
		return lineMarkers(text), err
	case args.ClangCL:
		question = append([]string{"/clang:-M"}, question...)
	default:
		question = append([]string{"-M"}, question...)
	}
	text, err := j.query(question...)
	if err != nil {
		return nil, err
	}
	names, err := parseRule(text)
	if err != nil {
		return nil, err
	}
	return names, j.startsWithSource(names)
}

// startsWithSource returns an error if the source is not the first file that a rule names: then the rule was misread.
func (j *job) startsWithSource(names []string) error {
	if len(names) > 0 {
		if s, err := stampOf(j.path(names[0])); err == nil && s == j.source.stamp {
			return nil
		}
	}
	return errDependencies
}

// tempName returns a name in a directory that nobody else uses.
func (d *Daemon) tempName(dir string) string {
	return filepath.Join(dir, ".sarsen-cc-"+strconv.Itoa(os.Getpid())+"-"+strconv.FormatUint(d.names.Add(1), 10))
}

// keep stores what the compiler gave. It returns the counter of the reason if it did not.
func (j *job) keep(ctx context.Context, report *launch.Report, deps, assembler string) string {
	d := j.daemon
	switch {
	case report.Status != 0:
		return notFailed
	case j.env["SARSEN_CC_READ_ONLY"] != "":
		return notReadOnly
	}
	e, err := j.outputs(report)
	if err != nil || !d.writers.alone(j) {
		return notOutput
	}
	if !j.identity.stands(j) || j.manifestKey().digest() != j.key { // what is hashed has changed since
		return notChanged
	}
	if !j.peer.there() { // the build may have gone on, and changed what was read
		return notLeft
	}
	names, err := j.included(report, deps)
	if err != nil {
		return notDeps
	}
	if assembler != "" && !j.assembled(assembler, names) {
		return notHidden
	}
	r, reason := j.resultOf(names, report.Began)
	return j.put(ctx, e, r, names, reason)
}

// put stores an entry and that r led to it, unless reason says why r can't be relied on. The compiler read names. It
// returns the counter of the reason if it did not.
func (j *job) put(ctx context.Context, e *entry, r *result, names []string, reason string) string {
	// Messages show lines of the source, which the preprocessor's output does not have as they were. What has changed
	// since the preprocessor began may not be what it printed.
	byText := j.preprocessed.Size != 0 && len(e.stderr) == 0 && (mutant.TextBelieved || j.unchanged(names, j.textBegan))
	if reason != "" && !byText {
		return reason
	}
	key := j.preprocessed
	if !byText {
		key = j.entryKey(r)
	}
	d := j.daemon
	if err := d.entries.put(ctx, key, e); err != nil {
		return j.notKept(err)
	}
	if reason == "" {
		r.Entry = key
		if err := d.entries.learn(ctx, j.key, r); err != nil {
			return j.notKept(err)
		}
	}
	return ""
}

func (j *job) notKept(err error) string {
	j.daemon.log.Warn("an entry could not be stored", "source", j.command.Sources[0], "error", err)
	if errors.Is(err, blob.ErrFull) || errors.Is(err, blob.ErrTooLarge) {
		return notFull
	}
	return notError
}

// outputs reads what the compiler wrote.
func (j *job) outputs(report *launch.Report) (*entry, error) {
	e := &entry{stdout: report.Stdout, stderr: report.Stderr}
	for _, o := range j.command.Outputs {
		data, err := readOutput(j.path(o.Path), report.Began)
		if o.Maybe && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		e.outputs = append(e.outputs, output{o.Kind, data})
	}
	return e, nil
}

// readOutput reads a file that was written since began.
func readOutput(path string, began int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	before, err := stampOfFile(f)
	if err != nil {
		return nil, err
	}
	if !before.mode.IsRegular() || before.size > maxOutput || before.newest() < began-int64(grain) {
		return nil, fmt.Errorf("%s is not what the compiler wrote", path)
	}
	data := make([]byte, before.size)
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, err
	}
	if after, err := stampOfFile(f); err != nil || after != before {
		return nil, errChanged
	}
	return data, nil
}

// included returns the names of the files that were read, the source left out.
func (j *job) included(report *launch.Report, deps string) ([]string, error) {
	var names []string
	switch {
	case j.command.Flags.NoPreprocessor:
		return nil, nil
	case deps != "":
		text, err := os.ReadFile(j.path(deps))
		if err != nil {
			return nil, err
		}
		if names, err = parseRule(text); err != nil {
			return nil, err
		}
		if err := j.startsWithSource(names); err != nil {
			return nil, err
		}
	case !j.listsHeaders():
		return j.askDependencies()
	default:
		s, err := j.daemon.ids.searchOf(j)
		if err != nil {
			return nil, err
		}
		names = slices.Clone(report.Headers)
		for _, dir := range s.dirs { // gcc includes it of its own accord, and does not say so
			if name := join(dir, "stdc-predef.h"); j.isFile(name) {
				names = append(names, name)
				break
			}
		}
		slices.Sort(names)
		names = slices.Compact(names)
	}
	return names, nil
}

// resultOf returns what a compile that began then depended on. Its entry is for the caller to set. The
// string is the counter of the reason why headers can't be relied on.
func (j *job) resultOf(names []string, began int64) (*result, string) {
	d := j.daemon
	source := j.command.Sources[0]
	files := []string{source}
	contents := []content{j.source}
	traits := j.source.traits
	r := &result{}
	if now, err := stampOf(j.path(source)); err != nil || now != j.source.stamp || j.fresh(now, began) {
		return nil, notChanged
	}
	for _, name := range names {
		if name == source || name == "" || name[0] == '<' {
			continue
		}
		c, err := d.files.digest(j.path(name))
		if err != nil {
			return nil, notChanged
		}
		if j.fresh(c.stamp, began) {
			return nil, notFresh
		}
		if c.traits&(hasIncbin|hasHidden) != 0 || precompiled(name) {
			return nil, notHidden
		}
		traits |= c.traits
		files, contents = append(files, name), append(contents, c)
		r.Files = append(r.Files, included{name, c.digest})
	}
	if traits&hasProbe != 0 {
		return nil, notHidden
	}
	if slices.ContainsFunc(names, special) {
		return nil, notHidden
	}
	if j.timed(traits) {
		return nil, notTime
	}
	r.Date = j.date(traits, time.Now())
	if r.Date != j.date(traits, time.Unix(0, began)) {
		return nil, notTime
	}
	if !j.command.Flags.NoPreprocessor && j.command.Dialect != args.MSVC {
		s, err := d.ids.searchOf(j)
		if err != nil {
			d.log.Warn("search path", "error", err)
			return nil, notError
		}
		for _, name := range s.through(j, names) {
			c, err := d.files.digest(j.path(name))
			if err != nil {
				return nil, notChanged
			}
			files, contents = append(files, name), append(contents, c)
			r.Files = append(r.Files, included{name, c.digest})
		}
		gaps, found, hidden := j.gapsOf(s, files, contents, began)
		if hidden {
			return nil, notHidden
		}
		if !mutant.AbsentForgotten {
			r.Absent = gaps
		}
		for _, name := range found {
			r.Files = append(r.Files, included{name, j.now(name)})
		}
	}
	return r, ""
}

// unchanged reports whether the source and the files of these names are older than that.
func (j *job) unchanged(names []string, began int64) bool {
	for _, name := range append([]string{j.command.Sources[0]}, names...) {
		if s, err := stampOf(j.path(name)); err != nil || special(name) || j.fresh(s, began) {
			return false
		}
	}
	return true
}

// special reports whether a name means another file in another process.
func special(name string) bool {
	return strings.HasPrefix(name, "/proc/") || strings.HasPrefix(name, "/dev/fd/") || strings.HasPrefix(name, "/dev/std")
}

// precompiled reports whether a file is a precompiled header. What that was made from is not known.
func precompiled(name string) bool {
	return filepath.Ext(name) == ".gch" || filepath.Ext(name) == ".pch" || strings.Contains(name, ".gch/")
}

// fresh reports whether a file may have changed since the compile began.
func (j *job) fresh(s stamp, began int64) bool {
	return !mutant.FreshTrusted && s.newest() >= began-int64(grain)
}

// entryKey returns the key of the entry that r leads to.
func (j *job) entryKey(r *result) digest.Digest {
	k := newKey("entry")
	k.add("manifest", j.key.Hex())
	k.add("date", r.Date)
	for _, f := range r.Files {
		k.add(f.Name, f.Digest.String())
	}
	return k.digest()
}
