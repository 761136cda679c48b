// Package config is the configuration: what a file and flags say, what is left to defaults, and where
// each value came from.
//
// A setting has one name, written dotted ("grpc.address"), and one flag ("--grpc"). All settings stand
// in one table (fields.go), from which the file's decoder, the flags of the commands and the printed
// form are made, so that none of them can know a setting that another does not.
//
// # Invariants
//
//   - Strict: what the file says and no setting takes is an error with its line, never ignored.
//   - All at once: Load reports every error that it can find, in the order of the file.
//   - Print is a file: what Write prints, Load reads, and it gives the same values.
//
// # Concurrency
//
// A Config is made by one goroutine. After Load nobody changes it, and any number may read it.
package config

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sarsen-build/sarsen/segment"
)

// A Config is the effective configuration. Load makes one.
type Config struct {
	Dir        string             // where the data lies, absolute
	MaxSize    int64              // bytes of disk that the store may take
	Lease      time.Duration      // how long a yes stands
	Durability segment.Durability // what is synced before it is acknowledged
	// UnsatisfiableTimeout is how long an action waits for a worker that has its platform; 0 leaves it to the scheduler.
	UnsatisfiableTimeout time.Duration
	GRPC                 string // HOST:PORT of the gRPC server; port 0 picks a free one
	HTTP                 string // HOST:PORT of the HTTP server; port 0 picks a free one
	Bucket               Bucket
	Redis                Redis
	PBS                  string // HOST:PORT of the Proxmox Backup Server protocol; "" does not serve it
	Backups              string // path of the file with the repositories of backup tools; "" lets everybody use any
	LogLevel             slog.Level
	LogFormat            string // "text" or "json"

	origins map[string]Origin
}

// An Origin says where a value came from. Its zero value is the default.
type Origin struct {
	File string
	Line int // in File, from 1
	Flag string
}

// String returns "default", FILE:LINE, or the flag as it is typed.
func (o Origin) String() string {
	switch {
	case o.Flag != "":
		return "--" + o.Flag
	case o.File != "":
		return fmt.Sprintf("%s:%d", o.File, o.Line)
	}
	return "default"
}

// An Error says what is wrong with one setting, and what to write instead.
type Error struct {
	Origin Origin
	Field  string // dotted; "" if the file as a whole is meant
	Text   string
}

func (e *Error) Error() string {
	var parts []string
	if e.Origin != (Origin{}) {
		parts = append(parts, e.Origin.String())
	}
	// A flag already names its setting.
	if e.Field != "" && e.Origin.Flag == "" {
		parts = append(parts, e.Field)
	}
	return strings.Join(append(parts, e.Text), ": ")
}

// An Override is a setting from the command line.
type Override struct {
	Flag  string // without dashes
	Value string
}

// Load returns the defaults, changed by what the file at path says (none if path is ""), changed by
// the overrides. The error joins all *Error that were found.
func Load(path string, overrides ...Override) (*Config, error) {
	c := &Config{origins: map[string]Origin{}}
	errs := c.setDefaults()
	if path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("can't read the configuration: %w", err)
		}
		errs = append(errs, c.decode(path, data)...)
	}
	for _, o := range overrides {
		f, ok := fieldOfFlag(o.Flag)
		if !ok {
			return nil, fmt.Errorf("no setting has the flag --%s", o.Flag)
		}
		errs = append(errs, c.set(f, o.Value, Origin{Flag: o.Flag})...)
	}
	if len(errs) == 0 {
		errs = c.finish()
	}
	return c, join(errs)
}

// Origin returns where the value of the setting came from.
func (c *Config) Origin(field string) Origin { return c.origins[field] }

// Changed returns the names of the settings that have another value in o, in the order of Fields.
func (c *Config) Changed(o *Config) []string {
	var names []string
	for _, f := range Fields {
		if f.get(c) != f.get(o) {
			names = append(names, f.Name)
		}
	}
	return names
}

// WithMaxSize returns a copy of c with the limit of o, and where that came from.
func (c *Config) WithMaxSize(o *Config) *Config {
	with := *c
	with.MaxSize, with.origins = o.MaxSize, maps.Clone(c.origins)
	with.origins["max-size"] = o.origins["max-size"]
	return &with
}

// setDefaults sets what does not depend on other settings.
func (c *Config) setDefaults() []*Error {
	var errs []*Error
	for _, f := range Fields {
		if f.Default != "" {
			errs = append(errs, c.set(f, f.Default, Origin{})...)
		}
	}
	return errs
}

// set gives f the value that text stands for.
func (c *Config) set(f Field, text string, from Origin) []*Error {
	c.origins[f.Name] = from
	if err := f.set(c, text); err != nil {
		return []*Error{{from, f.Name, err.Error()}}
	}
	return nil
}

// finish gives values to the settings whose defaults depend on the machine and on other settings,
// and checks what is only seen when all of them are there.
func (c *Config) finish() []*Error {
	if c.Dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return []*Error{{Field: "dir", Text: "there is no default, because this user has no cache directory (set HOME); say where the data is to lie with --dir"}}
		}
		c.Dir = filepath.Join(cache, "sarsen")
	}
	abs, err := filepath.Abs(c.Dir)
	if err != nil {
		return []*Error{{c.origins["dir"], "dir", fmt.Sprintf("%q can't be made absolute: %v", c.Dir, err)}}
	}
	c.Dir = abs
	if c.MaxSize == 0 {
		if c.MaxSize, err = defaultMaxSize(c.Dir); err != nil {
			return []*Error{{Field: "max-size", Text: fmt.Sprintf("the disk's free space can't be found out (%v); say how much to use with --max-size", err)}}
		}
	}
	if errs := slices.Concat(c.needsBucket(), c.finishRedis()); errs != nil {
		return errs
	}
	return c.overlaps()
}

// overlaps finds listeners that can't have their ports.
func (c *Config) overlaps() []*Error {
	listeners := []struct{ field, what, address string }{
		{"grpc.address", "the gRPC server's", c.GRPC}, {"http.address", "the HTTP server's", c.HTTP}, {"pbs.address", "the Proxmox backup server's", c.PBS},
	}
	for i, l := range listeners {
		for _, first := range listeners[:i] {
			if l.address == "" || !overlap(first.address, l.address) {
				continue
			}
			at := c.origins[l.field]
			if at == (Origin{}) {
				at = c.origins[first.field]
			}
			return []*Error{{at, l.field, fmt.Sprintf("%s %s and %s %s share a port; give each its own", l.what, l.address, first.what, first.address)}}
		}
	}
	return nil
}

// Write prints c as a file that Load reads, with a comment on where each value came from.
func (c *Config) Write(w io.Writer) error {
	lines := make([][2]string, 0, len(Fields)+2)
	section := ""
	for _, f := range Fields {
		indent, name := "", f.Name
		if s, rest, ok := strings.Cut(f.Name, "."); ok {
			if s != section {
				lines = append(lines, [2]string{s + ":"})
			}
			section, indent, name = s, "  ", rest
		}
		lines = append(lines, [2]string{indent + name + ": " + scalar(f.get(c)), c.origins[f.Name].String()})
	}
	width := 0
	for _, l := range lines {
		width = max(width, len(l[0]))
	}
	for _, l := range lines {
		text := l[0]
		if l[1] != "" {
			text = fmt.Sprintf("%-*s # %s", width, l[0], l[1])
		}
		if _, err := fmt.Fprintln(w, text); err != nil {
			return err
		}
	}
	return nil
}

// join returns errs as one error, those of a file in the order of its lines.
func join(errs []*Error) error {
	slices.SortStableFunc(errs, func(a, b *Error) int { return a.Origin.Line - b.Origin.Line })
	joined := make([]error, len(errs))
	for i, e := range errs {
		joined[i] = e
	}
	return errors.Join(joined...)
}
