package config

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/segment"
)

// write makes a configuration file and returns its path.
func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sarsen.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaults(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", "/cache")
	t.Setenv("HOME", "/home")
	c, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.Dir, filepath.Join(want, "sarsen"); got != want {
		t.Errorf("Dir: got %s, want %s", got, want)
	}
	if c.MaxSize < segment.MinSize || c.MaxSize > maxDefault {
		t.Errorf("MaxSize: got %d, want it between %d and %d", c.MaxSize, int64(segment.MinSize), int64(maxDefault))
	}
	if got, want := c.Lease, time.Hour; got != want {
		t.Errorf("Lease: got %s, want %s", got, want)
	}
	if c.GRPC != "127.0.0.1:8980" || c.HTTP != "127.0.0.1:8981" || c.LogLevel != slog.LevelInfo || c.LogFormat != "text" {
		t.Errorf("got %+v", c)
	}
	for _, f := range Fields {
		if got, want := c.Origin(f.Name).String(), "default"; got != want {
			t.Errorf("origin of %s: got %s, want %s", f.Name, got, want)
		}
	}
}

func TestFlagsGoOverFileGoesOverDefaults(t *testing.T) {
	path := write(t, `# a comment
dir: /data
max-size: 50 GB
lease: &l 2d
grpc: {address: "0.0.0.0:1"}
log:
  level: debug
`)
	c, err := Load(path, Override{"lease", "90m"}, Override{"http", "[::1]:0"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Dir != "/data" || c.MaxSize != 50e9 || c.Lease != 90*time.Minute || c.GRPC != "0.0.0.0:1" || c.HTTP != "[::1]:0" || c.LogLevel != slog.LevelDebug {
		t.Errorf("got %+v", c)
	}
	for field, want := range map[string]string{
		"dir": path + ":2", "max-size": path + ":3", "lease": "--lease", "grpc.address": path + ":5",
		"http.address": "--http", "log.level": path + ":7", "log.format": "default",
	} {
		if got := c.Origin(field).String(); got != want {
			t.Errorf("origin of %s: got %s, want %s", field, got, want)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"mistyped", "dir: /d\nmax-sise: 50GB\n", "F:2: max-sise: unknown field; did you mean max-size?"},
		{"other joint", "max_size: 50GB", "F:1: max_size: unknown field; did you mean max-size?"},
		{"camel", "maxSize: 50GB", "F:1: maxSize: unknown field; did you mean max-size?"},
		{"mistyped in a section", "log:\n  levle: info", "F:2: log.levle: unknown field; did you mean log.level?"},
		{"mistyped section", "htpp:\n  address: :1", "F:1: htpp: unknown field; did you mean http?"},
		{"flag for a name", "log-level: info", "F:1: log-level: unknown field; did you mean log.level?"},
		{"outside its section", "level: info", "F:1: level: unknown field; did you mean log.level?"},
		{"nothing near", "bananas: 3", "F:1: bananas: unknown field; known are dir, max-size, lease, durability, unsatisfiable-timeout, grpc, grpc.address, http, http.address, pbs, pbs.address, backups, log, log.level, log.format, bucket, bucket.name, bucket.endpoint, bucket.prefix, bucket.region, bucket.path-style, bucket.profile, bucket.credentials, bucket.write, bucket.queue, bucket.heartbeat, bucket.refresh, bucket.collect, bucket.max-size, redis, redis.address, redis.sentinel, redis.tls, redis.ca, redis.credentials, redis.prefix, redis.timeout, redis.connections"},
		{"twice", "lease: 1h\nlease: 1h", "F:2: lease: set twice, first in line 1; keep one"},
		{"section twice", "log: {level: info}\ndir: /d\nlog: {format: json}", "F:3: log: set twice, first in line 1; keep one"},
		{"no size", "max-size: 50 gigs", `F:1: max-size: "50 gigs" is not a size; write a number and a unit, like 50GB or 16MiB`},
		{"size beyond int64", "max-size: 16EB", `F:1: max-size: "16EB" is not a size; write a number and a unit, like 50GB or 16MiB`},
		{"small size", "\nmax-size: 63MiB", "F:2: max-size: 63MiB is less than the store needs; make it 64MiB or more"},
		{"no unit", "lease: 60", `F:1: lease: "60" is not a duration; write numbers and units, like 90m, 1h or 2d`},
		{"short lease", "lease: 10ms", "F:1: lease: 10ms is out of range; make it 1s at least and 365d at most"},
		{"negative lease", "lease: -1h", "F:1: lease: -1h is out of range; make it 1s at least and 365d at most"},
		{"no port", "grpc: {address: localhost}", `F:1: grpc.address: "localhost" is not an address; write HOST:PORT, like 127.0.0.1:8980`},
		{"named port", "http: {address: 'localhost:http'}", `F:1: http.address: "localhost:http" has no port between 0 and 65535; write HOST:PORT, like 127.0.0.1:8981`},
		{"URL", "http: {address: 'http://h:1'}", `F:1: http.address: "http://h:1" is not an address; write HOST:PORT, like 127.0.0.1:8981`},
		{"same address as pbs", "http: {address: 'h:1'}\npbs: {address: 'h:1'}", "F:2: pbs.address: the Proxmox backup server's h:1 and the HTTP server's h:1 share a port; give each its own"},
		{"same address", "grpc: {address: 'h:1'}\nhttp: {address: 'h:1'}", "F:2: http.address: the HTTP server's h:1 and the gRPC server's h:1 share a port; give each its own"},
		{"level", "log: {level: loud}", `F:1: log.level: "loud" is not a log level; write debug, info, warn or error`},
		{"durability", "durability: fsync", `F:1: durability: "fsync" is not a durability; write group, sync or none`},
		{"no patience", "unsatisfiable-timeout: soon", `F:1: unsatisfiable-timeout: "soon" is not a duration; write numbers and units, like 90m, 1h or 2d, or auto`},
		{"short patience", "unsatisfiable-timeout: 1ms", "F:1: unsatisfiable-timeout: 1ms is out of range; make it 1s at least and 1d at most, or auto"},
		{"format", "log: {format: xml}", `F:1: log.format: "xml" is not a log format; write text or json`},
		{"value for a section", "grpc: 127.0.0.1:8980", "F:1: grpc: this is a section, not a value; write its settings (address) indented below it, like 'address: ...'"},
		{"section for a value", "dir:\n  path: /d", "F:1: dir: want a value (DIR), got a section"},
		{"list for a value", "lease: [1h]", "F:1: lease: want a value (DURATION), got a list"},
		{"nothing for a value", "lease:", "F:1: lease: want a value (DURATION), got nothing"},
		{"empty path", "dir: ''", `F:1: dir: "" is not the path of a directory`},
		{"no fields", "hello", `F:1: want NAME: VALUE lines, got "hello"`},
		{"list", "- dir: /d", "F:1: want NAME: VALUE lines, got a list"},
		{"two documents", "dir: /d\n---\nlease: 1h", "F:2: a second document begins here; write one"},
		{"several", "leese: 1h\nmax-size: lots\nlog:\n  format: 3\n", `F:1: leese: unknown field; did you mean lease?
F:2: max-size: "lots" is not a size; write a number and a unit, like 50GB or 16MiB
F:4: log.format: "3" is not a log format; write text or json`},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := write(t, test.text)
			_, err := Load(path)
			if err == nil {
				t.Fatal("got no error")
			}
			if got := strings.ReplaceAll(err.Error(), path, "F"); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestErrorsOfWhatIsNoYAML(t *testing.T) {
	path := write(t, "dir: /d\nlease: [1h\n")
	_, err := Load(path)
	if err == nil || !strings.HasPrefix(err.Error(), path+":") || !strings.Contains(err.Error(), ": not YAML: ") {
		t.Errorf("got %v, want the file, a line and 'not YAML'", err)
	}
}

func TestErrorsOfFlags(t *testing.T) {
	for _, test := range []struct {
		override Override
		want     string
	}{
		{Override{"lease", "soon"}, `--lease: "soon" is not a duration; write numbers and units, like 90m, 1h or 2d`},
		{Override{"max-size", "1MB"}, "--max-size: 1MB is less than the store needs; make it 64MiB or more"},
		{Override{"grpc", "127.0.0.1:8981"}, "--grpc: the HTTP server's 127.0.0.1:8981 and the gRPC server's 127.0.0.1:8981 share a port; give each its own"},
	} {
		_, err := Load("", Override{"dir", t.TempDir()}, test.override)
		if err == nil || err.Error() != test.want {
			t.Errorf("--%s=%s: got %v, want %s", test.override.Flag, test.override.Value, err, test.want)
		}
	}
}

// Two listeners on one port of overlapping hosts can't both start.
func TestOverlap(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{"127.0.0.1:1", "127.0.0.1:1", true},
		{"127.0.0.1:1", "127.0.0.1:2", false},
		{"127.0.0.1:0", "127.0.0.1:0", false},
		{"0.0.0.0:1", "127.0.0.1:1", true},
		{"0.0.0.0:1", "127.0.0.1:2", false},
		{":1", "192.0.2.1:1", true},
		{"[::]:1", "127.0.0.1:1", true},
		{"[::]:1", "cache.example:1", true},
		{"[::1]:1", "[0:0::1]:1", true},
		{"[::1]:1", "127.0.0.1:1", false},
		{"localhost:1", "127.0.0.1:1", true},
		{"192.0.2.1:1", "192.0.2.2:1", false},
		{"cache.example:1", "cache.example:1", true},
		{"cache.example:1", "other.example:1", false},
	} {
		if got := overlap(test.a, test.b); got != test.want {
			t.Errorf("overlap(%s, %s): got %v, want %v", test.a, test.b, got, test.want)
		}
		if got := overlap(test.b, test.a); got != test.want {
			t.Errorf("overlap(%s, %s): got %v, want %v", test.b, test.a, got, test.want)
		}
	}
}

func TestErrorWithoutFile(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "absent.yaml")); err == nil {
		t.Error("got no error for a file that is not there")
	}
}

func TestWriteIsRead(t *testing.T) {
	path := write(t, "dir: '/a b: #c'\nmax-size: 1536MiB\nlease: 1d12h\nunsatisfiable-timeout: 10m\n")
	c, err := Load(path, Override{"log-format", "json"})
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := c.Write(&text); err != nil {
		t.Fatal(err)
	}
	want := `dir: '/a b: #c'            # F:1
max-size: 1536MiB          # F:2
lease: 36h                 # F:3
durability: group          # default
unsatisfiable-timeout: 10m # F:4
grpc:
  address: 127.0.0.1:8980  # default
http:
  address: 127.0.0.1:8981  # default
pbs:
  address: none            # default
backups: ''                # default
log:
  level: info              # default
  format: json             # --log-format
bucket:
  name: ''                 # default
  endpoint: ''             # default
  prefix: ''               # default
  region: ''               # default
  path-style: auto         # default
  profile: ''              # default
  credentials: ''          # default
  write: through           # default
  queue: 1GiB              # default
  heartbeat: 1m            # default
  refresh: 15m             # default
  collect: 1d              # default
  max-size: none           # default
redis:
  address: ''              # default
  sentinel: ''             # default
  tls: 'off'               # default
  ca: ''                   # default
  credentials: ''          # default
  prefix: ''               # default
  timeout: 2s              # default
  connections: '4'         # default
`
	if got := strings.ReplaceAll(text.String(), path, "F"); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	again, err := Load(write(t, text.String()))
	if err != nil {
		t.Fatal(err)
	}
	same(t, again, c)
}

// same checks that two configurations have the same values, whatever their origins.
func same(t *testing.T, got, want *Config) {
	t.Helper()
	for _, f := range Fields {
		if g, w := f.get(got), f.get(want); g != w {
			t.Errorf("%s: got %q, want %q", f.Name, g, w)
		}
	}
}

func TestUnits(t *testing.T) {
	for text, want := range map[string]int64{
		"50GB": 50e9, "16 MiB": 16 << 20, "16mib": 16 << 20, "1.5 GiB": 3 << 29, "1,000 kB": 1e6, "12": 12,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("ParseSize(%q): got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, n := range []int64{0, 1, 999, 1000, 1024, 64 << 20, 50e9, 1 << 40, 1<<63 - 1} {
		if got, err := ParseSize(FormatSize(n)); err != nil || got != n {
			t.Errorf("FormatSize(%d) = %s is read as %d, %v", n, FormatSize(n), got, err)
		}
	}
	for text, want := range map[string]time.Duration{
		"1h": time.Hour, "90m": 90 * time.Minute, "2d": 48 * time.Hour, "1d12h": 36 * time.Hour, "1h30m5s": 5405 * time.Second,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("ParseDuration(%q): got %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "d", "1", "1dd", "-1d", "1d-1h", "1d24h", "1.5d", "70000d", "1w"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("ParseDuration(%q): got %s, want an error", text, got)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0s", time.Second: "1s", time.Hour: "1h", 90 * time.Minute: "1h30m", 48 * time.Hour: "2d", 10 * time.Minute: "10m",
		10 * time.Hour: "10h", 10 * time.Second: "10s",
	} {
		if got := FormatDuration(d); got != want {
			t.Errorf("FormatDuration(%s): got %s, want %s", d, got, want)
		}
	}
}

func TestDefaultMaxSize(t *testing.T) {
	for n, want := range map[int64]int64{
		0: segment.MinSize, 100 << 20: 100 << 20, 100<<20 + 1: 100 << 20, 2.5e9: 2e9, 4e12: 100e9,
	} {
		if got := roundDefault(n); got != want {
			t.Errorf("roundDefault(%d): got %d, want %d", n, got, want)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "1.seg"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := heldBytes(dir); got < 1<<20 {
		t.Errorf("heldBytes: got %d, want at least %d", got, 1<<20)
	}
	// Neither the directory nor its parent need be there, nor be directories.
	for _, d := range []string{filepath.Join(dir, "not", "there"), filepath.Join(dir, "1.seg", "below")} {
		if _, err := defaultMaxSize(d); err != nil {
			t.Errorf("defaultMaxSize(%s): %v", d, err)
		}
	}
}

// FuzzDecode checks that no text can do more harm than an error, and that what is read is printed so
// that it is read as the same.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"", "# nothing\n", "dir: /data\nmax-size: 50GB\nlease: 2d\n",
		"grpc:\n  address: 127.0.0.1:0\nhttp: {address: '[::1]:8981'}\nlog: {level: debug, format: json}\n",
		"max-sise: 1\nlease: [1]\n", "a: &a\n  b: *a\n", "log: &l {level: info}\nlog: *l\n", "? [x]\n: y\n", "dir: \"\\x01\\u2028\"\n",
		"<<: {dir: /d}\n", "dir: !!binary aGk=\n", "- 1\n", "---\n---\n", "\t", "dir: |\n  a\n  b\n", "%YAML 9.9\n---\ndir: /d\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c := &Config{origins: map[string]Origin{}}
		if errs := append(c.setDefaults(), c.decode("F", []byte(text))...); len(errs) > 0 {
			for _, e := range errs {
				if e.Origin.Line < 1 || e.Text == "" {
					t.Errorf("%q: an error without a line or a text: %v", text, e)
				}
			}
			return
		}
		// These have no default before finish.
		if c.Dir == "" {
			c.Dir = "/d"
		}
		if c.MaxSize == 0 {
			c.MaxSize = segment.MinSize
		}
		var printed bytes.Buffer
		if err := c.Write(&printed); err != nil {
			t.Fatal(err)
		}
		again := &Config{origins: map[string]Origin{}}
		if errs := append(again.setDefaults(), again.decode("F", printed.Bytes())...); len(errs) > 0 {
			t.Fatalf("%q: printed as\n%s, which is refused: %v", text, &printed, errs[0])
		}
		same(t, again, c)
	})
}

func TestChanged(t *testing.T) {
	load := func(text string) *Config {
		t.Helper()
		c, err := Load(write(t, text))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	before := load("dir: /d\nmax-size: 1GB\nlease: 1h\n")
	if got := before.Changed(load("dir: /d\nmax-size: 1000MB\nlease: 60m\n")); len(got) != 0 {
		t.Errorf("the same in other words: got %q", got)
	}
	after := load("dir: /d\nmax-size: 2GB\ndurability: none\nlog: {level: warn}\n")
	if got, want := before.Changed(after), []string{"max-size", "durability", "log.level"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	with := before.WithMaxSize(after)
	if got, want := with.Changed(after), []string{"durability", "log.level"}; !slices.Equal(got, want) {
		t.Errorf("with the new limit: got %q, want %q", got, want)
	}
	if with.Origin("max-size") != after.Origin("max-size") || before.Origin("max-size") == after.Origin("max-size") {
		t.Errorf("origins: got %v and %v", with.Origin("max-size"), before.Origin("max-size"))
	}
}
