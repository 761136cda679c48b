package config

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v4"
)

// decode sets what the file's text says. It walks the nodes itself, because the YAML package's own
// strict decoding knows neither the nearest name nor where a good value stood.
//
// The text comes from outside. The depth of the settings bounds the walk, so that neither a deep
// text nor an alias that contains itself can make it long.
func (c *Config) decode(file string, text []byte) []*Error {
	loader, err := yaml.NewLoader(strings.NewReader(string(text)))
	if err != nil {
		return []*Error{syntaxError(file, err)}
	}
	var doc yaml.Node
	if err := loader.Load(&doc); errors.Is(err, io.EOF) {
		return nil
	} else if err != nil {
		return []*Error{syntaxError(file, err)}
	}
	var more yaml.Node
	if err := loader.Load(&more); err == nil {
		return []*Error{{Origin{File: file, Line: more.Line}, "", "a second document begins here; write one"}}
	} else if !errors.Is(err, io.EOF) {
		return []*Error{syntaxError(file, err)}
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 || isNull(doc.Content[0]) {
		return nil // nothing but comments
	}
	d := decoder{c, file, nil}
	d.mapping("", doc.Content[0])
	return d.errs
}

type decoder struct {
	config *Config
	file   string
	errs   []*Error
}

func (d *decoder) fail(n *yaml.Node, field, format string, args ...any) {
	d.errs = append(d.errs, &Error{Origin{File: d.file, Line: n.Line}, field, fmt.Sprintf(format, args...)})
}

// mapping takes the settings of a section, or those of the file if section is "".
func (d *decoder) mapping(section string, n *yaml.Node) {
	n = resolve(n)
	if n.Kind != yaml.MappingNode {
		if section == "" {
			d.fail(n, "", "want NAME: VALUE lines, got %s", describe(n))
			return
		}
		first := fieldsIn(section)[0]
		d.fail(n, section, "this is a section, not a value; write its settings (%s) indented below it, like '%s: ...'", strings.Join(fieldsIn(section), ", "), first)
		return
	}
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := resolve(n.Content[i]), n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			d.fail(key, section, "want the name of a setting, got %s", describe(key))
			continue
		}
		name := key.Value
		if section != "" {
			name = section + "." + key.Value
		}
		if line, ok := lines[name]; ok {
			d.fail(key, clip(name), "set twice, first in line %d; keep one", line)
			continue
		}
		lines[name] = key.Line
		d.setting(name, key, value)
	}
}

// setting takes one name and its value.
func (d *decoder) setting(name string, key, value *yaml.Node) {
	f, ok := fieldNamed(name)
	if !ok {
		if len(fieldsIn(name)) > 0 {
			d.mapping(name, value)
		} else {
			d.fail(key, clip(name), "unknown field; %s", suggest(name))
		}
		return
	}
	// The name's line is where a reader looks, also when the value begins below it.
	v := resolve(value)
	if v.Kind != yaml.ScalarNode || isNull(v) {
		d.fail(key, name, "want a value (%s), got %s", f.Value, describe(v))
		return
	}
	d.errs = append(d.errs, d.config.set(f, v.Value, Origin{File: d.file, Line: key.Line})...)
}

func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a section"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case isNull(n):
		return "nothing"
	}
	return fmt.Sprintf("%q", clip(n.Value))
}

// syntaxError is what the YAML package says of a text that is no YAML, with the line as ours.
func syntaxError(file string, err error) *Error {
	var load *yaml.LoadError
	if !errors.As(err, &load) {
		return &Error{Origin{File: file, Line: 1}, "", "not YAML: " + err.Error()}
	}
	return &Error{Origin{File: file, Line: max(load.Mark.Line, 1)}, "", "not YAML: " + load.Message}
}

// scalar writes text as a YAML value that is read as the same text, quoted where it must be.
func scalar(text string) string {
	out, err := yaml.Dump(text, yaml.WithLineWidth(-1))
	if err != nil || strings.Count(string(out), "\n") != 1 {
		return fmt.Sprintf("%q", text) // Go's quotes and escapes are YAML's for all that a path holds
	}
	return strings.TrimSuffix(string(out), "\n")
}
