package compiler

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"path/filepath"
	"strings"

	"github.com/sarsen-build/sarsen/compiler/args"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
)

// keyVersion changes when what is hashed, or how entries and manifests are written, changes.
const keyVersion = "sarsen cc 3"

// A field is one thing that a key depends on, with the name that people are told.
type field struct{ Name, Value string }

// A key collects what a result depends on. Every name and value is preceded by its length, so that no
// two lists run together.
type key struct {
	h      hash.Hash
	size   int64
	fields []field // for explanations
}

func newKey(kind string) *key {
	k := &key{h: sha256.New()}
	k.add("version", keyVersion)
	k.add("kind", kind)
	return k
}

func (k *key) add(name, value string) {
	k.fields = append(k.fields, field{name, value})
	b := binary.AppendUvarint(nil, uint64(len(name)))
	b = append(b, name...)
	b = binary.AppendUvarint(b, uint64(len(value)))
	b = append(b, value...)
	k.size += int64(len(b))
	k.h.Write(b)
}

// digest returns the name of the action with that key. Its size is that of what was hashed.
func (k *key) digest() digest.Digest {
	d := digest.Digest{Function: digest.SHA256, Size: k.size}
	k.h.Sum(d.Hash[:0])
	return d
}

// common adds what every result depends on, except for the source and what it includes.
func (j *job) common(k *key, withPreprocessor bool) {
	c := j.command
	k.add("namespace", j.env["SARSEN_CC_NAMESPACE"])
	k.add("compiler", j.identity.digest)
	k.add("dialect", c.Dialect.String())
	k.add("language", c.Language)
	if c.Flags.Native {
		k.add("processor", j.daemon.processor)
	}
	for i, a := range c.Hashed {
		if !mutant.ArgumentDropped || !strings.HasPrefix(a, "-O") {
			k.add("argument", a)
		}
		if i == 0 || c.Hashed[i-1] != "--sysroot" && c.Hashed[i-1] != "-isysroot" {
			continue
		}
		path := j.path(strings.TrimPrefix(a, "="))
		if real, err := filepath.EvalSymlinks(path); err == nil && real != filepath.Clean(path) {
			k.add("system root", real) // gcc tells nobody that a link led there
		}
	}
	if withPreprocessor || c.Flags.HashPreprocessor {
		for _, a := range c.Preprocessor {
			k.add("preprocessor argument", a)
		}
	}
	for _, name := range c.Env {
		if value, ok := j.env[name]; ok && !mutant.VariableDropped {
			k.add("variable "+name, value)
		}
	}
	if c.Flags.HashDir && j.env["SARSEN_CC_IGNORE_DIR"] == "" && !mutant.DirectoryDropped {
		k.add("directory", j.ask.Dir)
		if pwd := j.env["PWD"]; special(pwd) { // the compiler writes that, where Dir has the real one
			k.add("directory's name", pwd)
		}
	}
	j.outputNames(k)
	for _, name := range c.ExtraFiles {
		k.add("file "+name, j.contentOf(name))
	}
	for _, name := range strings.Split(j.env["SARSEN_CC_EXTRA_FILES"], ":") {
		if name != "" {
			k.add("file "+name, j.contentOf(name))
		}
	}
	k.add("colour", j.colour())
}

// outputNames adds which outputs there are, and their names where results contain them.
func (j *job) outputNames(k *key) {
	c := j.command
	for _, o := range c.Outputs {
		k.add("output", string(o.Kind))
		if c.Flags.HashOutput || o.Kind == args.SplitDwarf || o.Kind == args.CoverageNotes {
			k.add("output name", o.Path)
		}
	}
	if c.DepMode != "" {
		k.add("dependency mode", c.DepMode)
		for _, a := range c.DepArgs {
			k.add("dependency argument", a)
		}
		k.add("dependency target", c.DepTarget)
	}
}

// contentOf returns what stands for a file's content in a key. An absent one counts too.
func (j *job) contentOf(name string) string {
	f, err := j.daemon.files.digest(j.path(name))
	if err != nil {
		return "absent"
	}
	return f.digest.String()
}

// colour says whether the compiler is told to colour its messages.
func (j *job) colour() string {
	if term := j.env["TERM"]; term == "" || term == "dumb" {
		return "" // the compiler would not believe in colours
	}
	if j.command.Color == args.ColorAuto && j.ask.Terminal && !j.command.Dialect.Microsoft() {
		return "terminal"
	}
	return ""
}
