package config

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Backups is what the file of the setting "backups" says: the repositories that there are.
type Backups struct {
	Restic, Casync map[string]Repository // by name
	PBS            map[string]PBSAccount // by name
}

// A Repository is one that a backup tool may use.
type Repository struct {
	Token            string // "" lets everybody
	AppendOnly       bool   // Token's owner may not delete
	MaintenanceToken string // whose owner may; "" is nobody
	Quota            int64  // bytes; 0 is none
}

// repositoryName is what the paths of the HTTP port take.
var repositoryName = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$`)

// repositoryFields are what may be said of a repository.
var repositoryFields = map[string]func(r *Repository, text string) error{
	"token":             func(r *Repository, text string) error { return setToken(&r.Token, text) },
	"maintenance-token": func(r *Repository, text string) error { return setToken(&r.MaintenanceToken, text) },
	"append-only": func(r *Repository, text string) error {
		if text != "true" && text != "false" {
			return fmt.Errorf("%q is neither true nor false", clip(text))
		}
		r.AppendOnly = text == "true"
		return nil
	},
	"quota": func(r *Repository, text string) (err error) {
		if r.Quota, err = ParseSize(text); err == nil && r.Quota == 0 {
			err = errors.New("0 would be none; leave it out for no limit, or write one like 100GB")
		}
		return err
	},
}

func setToken(dst *string, text string) error {
	if len(text) < 8 {
		return errors.New("a token has 8 characters at least; leave it out to let everybody in")
	}
	*dst = text
	return nil
}

// LoadBackups reads the file at path, strictly. The error joins all *Error that were found.
func LoadBackups(path string) (*Backups, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("can't read the file of backups (--backups): %w", err)
	}
	loader, err := yaml.NewLoader(strings.NewReader(string(text)))
	if err != nil {
		return nil, syntaxError(path, err)
	}
	b := &Backups{Restic: map[string]Repository{}, Casync: map[string]Repository{}, PBS: map[string]PBSAccount{}}
	var doc yaml.Node
	if err := loader.Load(&doc); errors.Is(err, io.EOF) {
		return b, nil
	} else if err != nil {
		return nil, syntaxError(path, err)
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 || isNull(doc.Content[0]) {
		return b, nil // nothing but comments
	}
	d := decoder{file: path}
	d.each("", doc.Content[0], []string{"restic", "casync", "pbs"}, func(kind string, repositories *yaml.Node) {
		d.each(kind, repositories, nil, func(name string, fields *yaml.Node) {
			if kind == "pbs" {
				b.PBS[name] = d.pbsAccount(name, fields)
				return
			}
			if !repositoryName.MatchString(name) {
				d.fail(fields, kind, "%q is no name of a repository; it has letters, digits, dots, dashes and underscores, and does not begin with a dot", clip(name))
			}
			r := d.repository(kind+"."+name, fields)
			if kind == "restic" {
				b.Restic[name] = r
			} else {
				b.Casync[name] = r
			}
		})
	})
	return b, join(d.errs)
}

// repository reads what is said of one.
func (d *decoder) repository(at string, n *yaml.Node) (r Repository) {
	if isNull(resolve(n)) {
		return r
	}
	d.each(at, n, slices.Sorted(maps.Keys(repositoryFields)), func(name string, value *yaml.Node) {
		if value.Kind != yaml.ScalarNode || isNull(value) {
			d.fail(value, at+"."+name, "want a value, got %s", describe(value))
		} else if err := repositoryFields[name](&r, value.Value); err != nil {
			d.fail(value, at+"."+name, "%v", err)
		}
	})
	switch {
	case r.MaintenanceToken != "" && !r.AppendOnly:
		d.fail(n, at+".maintenance-token", "it is who may delete where append-only is true; set that, or leave this out")
	case r.MaintenanceToken != "" && r.MaintenanceToken == r.Token:
		d.fail(n, at+".maintenance-token", "it is the same as token, whose owner may not delete; choose another one")
	}
	return r
}

// each calls do for each name in a section, of those that are known; nil is all.
func (d *decoder) each(section string, n *yaml.Node, known []string, do func(name string, value *yaml.Node)) {
	n = resolve(n)
	if n.Kind != yaml.MappingNode {
		d.fail(n, section, "want NAME: VALUE lines, got %s", describe(n))
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := resolve(n.Content[i])
		at := strings.TrimPrefix(section+"."+clip(key.Value), ".")
		switch {
		case key.Kind != yaml.ScalarNode:
			d.fail(key, section, "want a name, got %s", describe(key))
		case known != nil && !slices.Contains(known, key.Value):
			d.fail(key, at, "unknown field; known are %s", strings.Join(known, ", "))
		case seen[key.Value]:
			d.fail(key, at, "set twice; keep one")
		default:
			seen[key.Value] = true
			do(key.Value, resolve(n.Content[i+1]))
		}
	}
}
