package config

import (
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sarsen-build/sarsen/segment"
)

// A Field is one setting.
type Field struct {
	Name    string // in the file, dotted: "grpc.address"
	Flag    string // without dashes: "grpc"
	Value   string // what stands for the value in help: "HOST:PORT"
	Usage   string // what it sets, in one line
	Default string // "" if it depends on the machine

	set func(c *Config, text string) error
	get func(c *Config) string // set(get()) changes nothing
}

// Fields lists all settings, in the order in which they are printed. Those of one section are neighbors.
var Fields = slices.Concat(mainFields, bucketFields, redisFields)

var mainFields = []Field{
	{
		Name: "dir", Flag: "dir", Value: "DIR",
		Usage: "where the data lies (default: sarsen in the user's cache directory)",
		set: func(c *Config, text string) error {
			if text == "" || strings.ContainsRune(text, 0) {
				return fmt.Errorf("%q is not the path of a directory", text)
			}
			c.Dir = text
			return nil
		},
		get: func(c *Config) string { return c.Dir },
	},
	{
		Name: "max-size", Flag: "max-size", Value: "SIZE",
		Usage: "how much disk the store may take, like 50GB or 16GiB (default: half of what is free there, at most 100GB)",
		set: func(c *Config, text string) (err error) {
			if c.MaxSize, err = ParseSize(text); err == nil && c.MaxSize < segment.MinSize {
				err = fmt.Errorf("%s is less than the store needs; make it %s or more", text, FormatSize(segment.MinSize))
			}
			return err
		},
		get: func(c *Config) string { return FormatSize(c.MaxSize) },
	},
	{
		Name: "lease", Flag: "lease", Value: "DURATION", Default: "1h",
		Usage: "how long a blob stays readable after the server said that it is there, like 90m, 1h or 2d",
		set: func(c *Config, text string) (err error) {
			if c.Lease, err = ParseDuration(text); err == nil && (c.Lease < minLease || c.Lease > maxLease) {
				err = fmt.Errorf("%s is out of range; make it %s at least and %s at most", text, FormatDuration(minLease), FormatDuration(maxLease))
			}
			return err
		},
		get: func(c *Config) string { return FormatDuration(c.Lease) },
	},
	{
		Name: "durability", Flag: "durability", Value: "MODE", Default: string(segment.Group),
		Usage: "what is on the disk before it is acknowledged: group (action results, after the blobs that they name), sync (every blob too) or none",
		set: func(c *Config, text string) error {
			if text != string(segment.Group) && text != string(segment.Sync) && text != string(segment.None) {
				return fmt.Errorf("%q is not a durability; write group, sync or none", text)
			}
			c.Durability = segment.Durability(text)
			return nil
		},
		get: func(c *Config) string { return string(c.Durability) },
	},
	{
		Name: "unsatisfiable-timeout", Flag: "unsatisfiable-timeout", Value: "DURATION", Default: "auto",
		Usage: "how long an action waits for a worker that has its platform before it fails, like 10m where workers are started on demand; auto fails at once what the workers that are there can't run, and after 1m if there is none",
		set:   setUnsatisfiable,
		get: func(c *Config) string {
			if c.UnsatisfiableTimeout == 0 {
				return "auto"
			}
			return FormatDuration(c.UnsatisfiableTimeout)
		},
	},
	{
		Name: "grpc.address", Flag: "grpc", Value: "HOST:PORT", Default: "127.0.0.1:8980",
		Usage: "where the gRPC server listens; port 0 picks a free one",
		set:   func(c *Config, text string) error { return setAddress(&c.GRPC, text, "8980") },
		get:   func(c *Config) string { return c.GRPC },
	},
	{
		Name: "http.address", Flag: "http", Value: "HOST:PORT", Default: "127.0.0.1:8981",
		Usage: "where the HTTP server listens; port 0 picks a free one",
		set:   func(c *Config, text string) error { return setAddress(&c.HTTP, text, "8981") },
		get:   func(c *Config) string { return c.HTTP },
	},
	{
		Name: "pbs.address", Flag: "pbs", Value: "HOST:PORT", Default: pbsOff,
		Usage: "where the Proxmox Backup Server protocol is served, like 0.0.0.0:8007; its accounts stand in the file of backups",
		set:   setPBS,
		get:   pbsAddress,
	},
	{
		Name: "backups", Flag: "backups", Value: "FILE",
		Usage: "the YAML file with the repositories of restic and casync, their tokens and quotas (default: any, and everybody may use them), and the accounts of the Proxmox protocol",
		set:   func(c *Config, text string) error { c.Backups = text; return nil },
		get:   func(c *Config) string { return c.Backups },
	},
	{
		Name: "log.level", Flag: "log-level", Value: "LEVEL", Default: "info",
		Usage: "the least that is logged: " + levels + "; debug has a line for every request",
		set:   setLevel,
		get:   func(c *Config) string { return strings.ToLower(c.LogLevel.String()) },
	},
	{
		Name: "log.format", Flag: "log-format", Value: "FORMAT", Default: "text",
		Usage: "how it is logged to standard error: text or json",
		set: func(c *Config, text string) error {
			if text != "text" && text != "json" {
				return fmt.Errorf("%q is not a log format; write text or json", text)
			}
			c.LogFormat = text
			return nil
		},
		get: func(c *Config) string { return c.LogFormat },
	},
}

const (
	minLease = time.Second
	maxLease = 365 * 24 * time.Hour
	levels   = "debug, info, warn or error"

	minUnsatisfiable = time.Second
	maxUnsatisfiable = 24 * time.Hour
)

// fieldNamed returns the setting of a dotted name.
func fieldNamed(name string) (Field, bool) {
	for _, f := range Fields {
		if f.Name == name {
			return f, true
		}
	}
	return Field{}, false
}

// fieldOfFlag returns the setting of a flag.
func fieldOfFlag(flag string) (Field, bool) {
	for _, f := range Fields {
		if f.Flag == flag {
			return f, true
		}
	}
	return Field{}, false
}

// fieldsIn returns the names of the settings in a section, without its own.
func fieldsIn(section string) []string {
	var names []string
	for _, f := range Fields {
		if rest, ok := strings.CutPrefix(f.Name, section+"."); ok {
			names = append(names, rest)
		}
	}
	return names
}

func setUnsatisfiable(c *Config, text string) (err error) {
	if text == "auto" {
		c.UnsatisfiableTimeout = 0
		return nil
	}
	if c.UnsatisfiableTimeout, err = ParseDuration(text); err != nil {
		return fmt.Errorf("%w, or auto", err)
	}
	if c.UnsatisfiableTimeout < minUnsatisfiable || c.UnsatisfiableTimeout > maxUnsatisfiable {
		return fmt.Errorf("%s is out of range; make it %s at least and %s at most, or auto", text, FormatDuration(minUnsatisfiable), FormatDuration(maxUnsatisfiable))
	}
	return nil
}

func setAddress(dst *string, text, port string) error {
	host, p, err := net.SplitHostPort(text)
	if err != nil {
		return fmt.Errorf("%q is not an address; write HOST:PORT, like 127.0.0.1:%s", text, port)
	}
	if n, err := strconv.ParseUint(p, 10, 16); err != nil || strconv.FormatUint(n, 10) != p {
		return fmt.Errorf("%q has no port between 0 and 65535; write HOST:PORT, like 127.0.0.1:%s", text, port)
	}
	if strings.ContainsAny(host, " \t\r\n/") {
		return fmt.Errorf("%q is not a host; write HOST:PORT, like 127.0.0.1:%s", host, port)
	}
	*dst = text
	return nil
}

// overlap reports whether two listeners can't have these addresses, which setAddress has taken. Port 0
// gives each its own.
func overlap(a, b string) bool {
	hostA, portA, _ := net.SplitHostPort(a)
	hostB, portB, _ := net.SplitHostPort(b)
	if portA != portB || portA == "0" {
		return false
	}
	ipA, ipB := listenIP(hostA), listenIP(hostB)
	return hostA == hostB || ipA.IsUnspecified() || ipB.IsUnspecified() || ipA != nil && ipA.Equal(ipB)
}

// listenIP returns the address that a host stands for when a server listens, nil for a name.
func listenIP(host string) net.IP {
	switch host {
	case "":
		return net.IPv4zero
	case "localhost":
		return net.IPv4(127, 0, 0, 1)
	}
	return net.ParseIP(host)
}

func setLevel(c *Config, text string) error {
	known := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	level, ok := known[text]
	if !ok {
		return fmt.Errorf("%q is not a log level; write %s", text, levels)
	}
	c.LogLevel = level
	return nil
}
