package compiler

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sarsen-build/sarsen/compiler/args"
	"github.com/sarsen-build/sarsen/digest"
)

// A plan is a compile as an action: everything that the compiler may read, where it lies here.
type plan struct {
	job    *job
	action digest.Digest
	blobs  map[digest.Digest]input // inputs, and the messages that describe them
	result *result                 // what the compile depends on
	read   []string                // where the source and all headers are, sorted
	deps   string                  // the dependency file that shows what was read there; "" if none does
	paths  []string                // of the command's outputs and of deps, relative to the working directory
	tree   *inputTree
	real   string                   // the working directory, without links
	twins  map[digest.Digest]string // where sources and headers are, by what they hold
	looked map[string]bool          // names that were looked for, and whether they are there
}

// plan finds out what the compile reads. The string is the counter of the reason if it is to be run here.
func (j *job) plan(x *executor) (*plan, string) {
	if reason := j.unsuited(); reason != "" {
		return nil, reason
	}
	began := time.Now().UnixNano()
	var names []string
	if !j.command.Flags.NoPreprocessor {
		text, err := j.query(append([]string{"-M", "-fno-canonical-system-headers"}, j.command.PreprocessArgv()...)...)
		if err != nil {
			return nil, notScanned // it has no such header, most likely, and the compiler says so
		}
		if names, err = parseRule(text); err != nil {
			return nil, notScanned
		}
	}
	p := &plan{job: j, tree: newInputTree(), twins: map[digest.Digest]string{}, looked: map[string]bool{}}
	var reason string
	if p.result, reason = j.resultOf(names, began); reason != "" {
		return nil, "not_executed." + strings.TrimPrefix(reason, "not_stored.")
	}
	if p.result.Date != "" && j.env["SOURCE_DATE_EPOCH"] == "" {
		return nil, notToday
	}
	err := p.inputs(x, names)
	if err == nil {
		err = p.describe(x)
	}
	switch {
	case errors.Is(err, errPrivate):
		return nil, notPlaced
	case errors.Is(err, errTwins):
		return nil, notTold
	case err != nil:
		j.daemon.log.Warn("a compile could not be made an action", "source", j.command.Sources[0], "error", err)
		return nil, notPlanned
	}
	return p, ""
}

// alien are options that make gcc read files, run programs or look at its machine in ways that are not followed.
var alien = []string{
	"-fplugin", "-specs", "--specs", "-B", "-wrapper", "-finput-charset", "-fexec-charset", "-fwide-exec-charset",
	"-fprofile-use", "-fauto-profile", "-fbranch-probabilities", "-foffload", "-fopenacc",
}

// unsuited returns why nobody knows what another machine would make of the compile.
func (j *job) unsuited() string {
	c := j.command
	switch {
	case c.Dialect != args.GCC && c.Dialect != args.GXX:
		return notGCC
	case c.Flags.Native:
		return notNative
	case c.Mode == args.SyntaxOnly: // for which gcc looks at linkers
		return notOptions
	case c.Flags.Profile, c.Flags.CreatesPCH, c.Flags.UsesPCH:
		return notOptions
	}
	for _, name := range append([]string{"LIBRARY_PATH"}, loaderVariables...) {
		if _, set := j.env[name]; set { // other specs and libraries than those that are sent
			return notLibraries
		}
	}
	for _, a := range c.Argv {
		if strings.HasPrefix(a, "@") || strings.ContainsAny(a, "\n\r\x00") {
			return notOptions
		}
		if slices.ContainsFunc(alien, func(option string) bool { return strings.HasPrefix(a, option) }) {
			return notOptions
		}
	}
	return ""
}

// inputs adds all that the compile reads, and the directories that it looks into, to the tree. The preprocessor read names.
func (p *plan) inputs(x *executor, names []string) error {
	j, h, t := p.job, p.job.daemon.files, p.tree
	toolchain, err := x.toolchains.of(j)
	if err != nil {
		return err
	}
	for _, name := range append(toolchain, j.localeFiles()...) {
		if err := t.add(h, name); err != nil {
			return err
		}
	}
	if p.real, err = t.directory(j.ask.Dir); err != nil {
		return err
	}
	list := append([]included{{j.command.Sources[0], j.source.digest}}, p.result.Files...)
	contents := make([]content, len(list))
	scanned := map[string]bool{}
	for _, name := range names {
		scanned[name] = true
	}
	for i, f := range list {
		real, c, err := p.text(j.path(f.Name))
		if err != nil {
			return err
		}
		if c.digest != f.Digest {
			return errChanged
		}
		contents[i] = c
		if i == 0 || scanned[f.Name] { // the others were looked for
			p.read = append(p.read, real)
		}
	}
	slices.Sort(p.read)
	p.read = slices.Compact(p.read)
	for _, name := range append(slices.Clone(j.command.ExtraFiles), strings.Split(j.env["SARSEN_CC_EXTRA_FILES"], ":")...) {
		if name == "" {
			continue
		}
		if err := t.add(h, j.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return p.looks(list, contents)
}

// text adds a source or a header.
func (p *plan) text(name string) (real string, c content, err error) {
	if real, c, err = p.tree.file(p.job.daemon.files, name); err != nil {
		return "", c, err
	}
	other, twin := p.twins[c.digest]
	if twin && other != real && once(real) {
		return "", c, fmt.Errorf("%s and %s: %w", other, real, errTwins)
	}
	p.twins[c.digest] = real
	return real, c, nil
}

// looks adds what the compiler looks at without reading it: the directories that are searched, files that are only asked
// for with __has_include, and those that directives name which are switched off, or which are there a second time.
func (p *plan) looks(list []included, contents []content) error {
	j, t := p.job, p.tree
	if j.command.Flags.NoPreprocessor {
		return nil
	}
	s, err := j.daemon.ids.searchOf(j)
	if err != nil {
		return err
	}
	chain := append(slices.Clone(s.quote), s.dirs...)
	dirs := append(slices.Clone(chain), s.double...)
	for _, d := range j.command.IncludeDirs {
		dirs = append(dirs, d.Path)
	}
	for _, dir := range dirs {
		if _, err := t.directory(j.path(dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for i, c := range contents {
		here := append([]string{dirOf(list[i].Name)}, chain...)
		for _, name := range c.probed {
			if err := p.find(here, name, true); err != nil {
				return err
			}
		}
		for _, name := range c.quoted {
			if err := p.find(here, name, false); err != nil {
				return err
			}
		}
		for _, name := range c.angled {
			if err := p.find(chain, name, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// find adds the first header of that name in dirs, or all.
func (p *plan) find(dirs []string, name string, all bool) error {
	if filepath.IsAbs(name) {
		dirs = []string{""}
	}
	for _, dir := range dirs {
		full := p.job.path(dir + "/" + name)
		if dir == "" {
			full = name
		}
		there, seen := p.looked[full]
		if !seen {
			info, err := os.Stat(full)
			there = err == nil
			p.looked[full] = there
			switch {
			case there && info.Mode().IsRegular():
				if _, _, err := p.text(full); err != nil {
					return err
				}
			case there:
				if err := p.tree.add(p.job.daemon.files, full); err != nil {
					return err
				}
			}
		}
		if there && !all {
			return nil
		}
	}
	return nil
}

// errTwins says that gcc tells two headers of the same bytes apart by their times, which do not travel.
var errTwins = errors.New("two headers hold the same and are to be read once")

// once reports whether a header may say that it is to be read once, or is asked for so.
func once(path string) bool {
	b, err := os.ReadFile(path)
	return err != nil || bytes.Contains(b, []byte("once")) || bytes.Contains(b, []byte("import"))
}

// localeFiles are what the locale is made of, if it is that of UTF-8 alone. For others only silent compiles are taken.
func (j *job) localeFiles() []string {
	if !isUTF8(j.locale()) {
		return nil
	}
	names, _ := filepath.Glob("/usr/lib/locale/C.utf8/LC_*") // the pattern is right
	for _, name := range slices.Clone(names) {
		if filepath.Base(name) == "LC_MESSAGES" {
			names = append(names, name+"/SYS_LC_MESSAGES")
		}
	}
	return slices.DeleteFunc(names, func(name string) bool { _, err := os.Stat(name); return err != nil })
}

// locale returns the locale of messages.
func (j *job) locale() string {
	for _, name := range []string{"LC_ALL", "LC_MESSAGES", "LC_CTYPE", "LANG"} {
		if v := j.env[name]; v != "" {
			return v
		}
	}
	return ""
}

func isUTF8(locale string) bool { return locale == "C.UTF-8" || locale == "C.utf8" }

// plain reports whether messages are the same wherever the compiler runs.
func (j *job) plain() bool {
	ok := func(name string) bool {
		v := j.env[name]
		return v == "" || v == "C" || v == "POSIX" || isUTF8(v)
	}
	return ok("LC_ALL") && ok("LC_MESSAGES") && ok("LC_CTYPE") && ok("LANG") && j.env["LANGUAGE"] == ""
}

// The names of files in the root that no machine has: a worker whose actions see another root than their inputs has
// no such arguments for the compiler, and can't succeed.
const (
	argumentsPrefix = ".sarsen-cc-arguments-"
	depsName        = ".sarsen-cc-dependencies"
)

// describe makes the action.
func (p *plan) describe(x *executor) error {
	j, c := p.job, p.job.command
	argv := c.CompileArgv("")
	switch {
	case c.Flags.NoPreprocessor, c.DepMode == "-MMD":
	case c.DepMode == "-MD":
		p.deps = c.DepFile
	default:
		p.deps = depsName
		argv = c.CompileArgv(depsName)
	}
	if j.colour() != "" {
		argv = append([]string{"-fdiagnostics-color=always"}, argv...)
	}
	names := []string{}
	for _, o := range c.Outputs {
		names = append(names, o.Path)
	}
	if p.deps == depsName {
		names = append(names, depsName)
	}
	for _, name := range names {
		path, err := p.output(name)
		if err != nil {
			return err
		}
		p.paths = append(p.paths, path)
	}
	text := responseFile(argv)
	name := argumentsPrefix + digest.SHA256.Of(text).Hex()
	p.tree.write(name, text)
	root, blobs, err := p.tree.encode()
	if err != nil {
		return err
	}
	command := &repb.Command{
		Arguments: []string{j.ask.Compiler, "@/" + name}, EnvironmentVariables: j.variables(),
		WorkingDirectory: strings.TrimPrefix(p.real, "/"), OutputPaths: slices.Sorted(slices.Values(p.paths)),
	}
	//lint:ignore SA1019 Servers of before version 2.2 read it there.
	command.Platform = x.platform
	run, err := message(blobs, command)
	if err != nil {
		return err
	}
	p.blobs = blobs
	p.action, err = message(blobs, &repb.Action{
		CommandDigest: protoOf(run), InputRootDigest: protoOf(root), Timeout: durationpb.New(executeTime), Platform: x.platform,
	})
	return err
}

// output returns an output's path relative to the working directory, both without links, and adds its directory.
func (p *plan) output(name string) (string, error) {
	name = p.job.path(name)
	dir, err := p.tree.directory(dirOf(name))
	if err != nil {
		return "", err
	}
	return filepath.Rel("/"+p.real, dir+"/"+filepath.Base(name))
}

// responseFile returns a file that means these arguments to gcc.
func responseFile(argv []string) []byte {
	var b bytes.Buffer
	for _, a := range argv {
		if a == "" {
			b.WriteString(`""`)
		}
		for i := range len(a) {
			if strings.IndexByte(" \t\v\f\\'\"", a[i]) >= 0 {
				b.WriteByte('\\')
			}
			b.WriteByte(a[i])
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// variables returns the environment of the compiler: what matters to it, and nothing of the launcher's.
func (j *job) variables() []*repb.Command_EnvironmentVariable {
	var list []*repb.Command_EnvironmentVariable
	for name, value := range j.env {
		if name == "PWD" || name == "TMPDIR" || strings.HasPrefix(name, "SARSEN_CC_") || slices.Contains(j.command.Unset, name) {
			continue
		}
		list = append(list, &repb.Command_EnvironmentVariable{Name: name, Value: value})
	}
	list = append(list, &repb.Command_EnvironmentVariable{Name: "PWD", Value: j.ask.Dir})
	slices.SortFunc(list, func(a, b *repb.Command_EnvironmentVariable) int { return strings.Compare(a.Name, b.Name) })
	return list
}
