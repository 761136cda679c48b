package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/sarsen-build/sarsen/client"
	"github.com/sarsen-build/sarsen/compiler"
	"github.com/sarsen-build/sarsen/compiler/launch"
	"github.com/sarsen-build/sarsen/config"
)

func newCCCommand() *cobra.Command {
	r := &ccReport{}
	var daemon, maxSize, explain, dryRun string
	var stats, zero, clear, wait, stop, remote bool
	cmd := &cobra.Command{
		Use:   "cc [OPTION | [--remote] COMPILER ARGUMENT...]",
		Short: "Run a compiler, or take what it gave before",
		Long: `Run gcc, g++, clang, clang++, cl or clang-cl, or take what the same compile gave before. A link to sarsen
with the name of a compiler, in a folder that PATH names first, does the same.

A daemon of the user keeps the results, in SARSEN_CC_DIR or the user's folder for caches, and on a
server for remote execution if SARSEN_CC_REMOTE names one. It is started when it is needed. If it, the
disk or the network fails, the compiler simply runs. With --remote before the compiler, or if
SARSEN_CC_REMOTE_EXECUTE is set, that server compiles what is not known, with this machine's compiler.

The other options ask for what follows instead of compiling. docs/cc.md has all variables and settings.`,
		Example: "  make CC='sarsen cc gcc' CXX='sarsen cc g++'\n  sarsen cc --stats\n  sarsen cc --explain src/main.c",
		Args:    cobra.NoArgs,
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVar(&remote, "remote", false, "have the server compile what is not known: sarsen cc --remote gcc ...")
	f.BoolVarP(&stats, "stats", "s", false, "print the statistics")
	f.BoolVar(&r.json, "json", false, "print them as JSON")
	f.BoolVarP(&zero, "zero", "z", false, "set the statistics to zero")
	f.StringVar(&explain, "explain", "", "say why the last compile of the source `FILE` was a miss")
	f.StringVar(&dryRun, "dry-run", "", "say what can be cached of the compile_commands.json `FILE`")
	f.StringVarP(&maxSize, "max-size", "M", "", "let the cache take `SIZE` of disk, as 10GiB")
	f.BoolVarP(&clear, "clear", "C", false, "remove everything that is cached here")
	f.BoolVar(&wait, "wait", false, "wait until everything is uploaded")
	f.BoolVar(&stop, "stop", false, "end the daemon; the next compile starts one")
	f.StringVar(&daemon, "daemon", "", "be the daemon of the folder")
	_ = f.MarkHidden("daemon")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r.out = cmd.OutOrStdout()
		dir, err := launch.Dir()
		switch {
		case err != nil:
			return err
		case daemon != "":
			return runCompilerDaemon(daemon)
		case explain != "":
			return r.explain(dir, explain)
		case dryRun != "":
			return r.dryRun(dryRun)
		case maxSize != "":
			return setMaxSize(dir, maxSize)
		case clear:
			return clearCompilerCache(dir)
		case zero:
			return zeroCompilerStats(dir)
		case wait:
			_, err := askCompilerDaemon(dir, compiler.Question{Verb: "drain"})
			return err
		case stop:
			return stopCompilerDaemon(dir)
		case remote:
			return &usageError{errors.New("--remote stands right before a compiler: sarsen cc --remote gcc -c x.c")}
		case stats, r.json:
			return r.stats(dir)
		}
		return cmd.Help()
	}
	return cmd
}

// ccSettings are what config.yaml in the cache's folder and variables say; variables come first.
type ccSettings struct {
	MaxSize  string `yaml:"max_size"`
	Remote   string `yaml:"remote"`
	CA       string `yaml:"remote_tls_ca"`
	Cert     string `yaml:"remote_tls_cert"`
	Key      string `yaml:"remote_tls_key"`
	Token    string `yaml:"remote_token"`
	Instance string `yaml:"instance"`
	ReadOnly bool   `yaml:"remote_read_only"`
	Execute  bool   `yaml:"remote_execute"`
	Jobs     int    `yaml:"remote_jobs"`
	Queue    string `yaml:"remote_queue"`

	Platform map[string]string `yaml:"remote_platform"`

	Idle string `yaml:"idle"`
	Mode string `yaml:"mode"`
}

// access returns how the remote server is reached.
func (s ccSettings) access() client.Access {
	a := accessOfVariables()
	a.CA, a.Token = cmp.Or(a.CA, s.CA), cmp.Or(a.Token, s.Token)
	if a.Cert == "" && a.Key == "" { // they go together
		a.Cert, a.Key = s.Cert, s.Key
	}
	return a
}

func ccSettingsFile(dir string) string { return filepath.Join(dir, "config.yaml") }

// compilerOptions returns what the daemon of a folder is told. Close the connection that comes with it.
func compilerOptions(dir string) (o compiler.Options, closeConn func(), err error) {
	closeConn = func() {}
	s := ccSettings{Idle: "1h"}
	text, err := os.ReadFile(ccSettingsFile(dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return o, closeConn, err
	}
	if len(strings.TrimSpace(string(text))) > 0 {
		if err := yaml.Load(text, &s, yaml.WithKnownFields()); err != nil {
			return o, closeConn, fmt.Errorf("%s: %w", ccSettingsFile(dir), err)
		}
	}
	for name, field := range map[string]*string{
		"SARSEN_CC_MAX_SIZE": &s.MaxSize, "SARSEN_CC_REMOTE": &s.Remote, "SARSEN_CC_INSTANCE": &s.Instance, "SARSEN_CC_IDLE": &s.Idle,
	} {
		if v := os.Getenv(name); v != "" {
			*field = v
		}
	}
	o = compiler.Options{Dir: dir, Instance: s.Instance, Mode: s.Mode}
	o.RemoteReadOnly = s.ReadOnly || os.Getenv("SARSEN_CC_REMOTE_READ_ONLY") != ""
	if err := s.execution(&o); err != nil {
		return o, closeConn, err
	}
	if s.MaxSize != "" {
		if o.MaxSize, err = config.ParseSize(s.MaxSize); err != nil {
			return o, closeConn, fmt.Errorf("max_size: %w", err)
		}
	}
	if o.Idle, err = config.ParseDuration(s.Idle); err != nil {
		return o, closeConn, fmt.Errorf("idle: %w", err)
	}
	if s.Remote != "" {
		target, err := client.ParseTarget(s.Remote)
		if err != nil {
			return o, closeConn, err
		}
		access, err := s.access().Options(target)
		if err != nil {
			return o, closeConn, err
		}
		conn, err := target.Connect(access...)
		if err != nil {
			return o, closeConn, err
		}
		o.Remote, closeConn = conn, func() { conn.Close() }
	}
	return o, closeConn, nil
}

// execution sets how the server compiles.
func (s *ccSettings) execution(o *compiler.Options) error {
	o.Execute, o.ExecuteJobs, o.Platform = s.Execute, s.Jobs, s.Platform
	if v := os.Getenv("SARSEN_CC_REMOTE_JOBS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			return fmt.Errorf("SARSEN_CC_REMOTE_JOBS=%s: want a number", v)
		}
		o.ExecuteJobs = n
	}
	if o.ExecuteJobs < 0 {
		return fmt.Errorf("remote_jobs: %d is less than 0", o.ExecuteJobs)
	}
	if v := os.Getenv("SARSEN_CC_REMOTE_QUEUE"); v != "" {
		s.Queue = v
	}
	if s.Queue != "" {
		var err error
		if o.ExecuteQueue, err = config.ParseDuration(s.Queue); err != nil {
			return fmt.Errorf("remote_queue: %w", err)
		}
	}
	if v := os.Getenv("SARSEN_CC_REMOTE_PLATFORM"); v != "" {
		o.Platform = map[string]string{}
		for property := range strings.SplitSeq(v, ",") {
			name, value, ok := strings.Cut(property, "=")
			if !ok || name == "" {
				return fmt.Errorf("SARSEN_CC_REMOTE_PLATFORM: %q: want NAME=VALUE", property)
			}
			o.Platform[name] = value
		}
	}
	return nil
}

// runCompilerDaemon is the process that launchers start.
func runCompilerDaemon(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	signal.Ignore(syscall.SIGHUP)
	o, closeConn, err := compilerOptions(dir)
	if err != nil {
		return err
	}
	defer closeConn()
	o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	return compiler.Run(ctx, o)
}

// askCompilerDaemon asks the daemon of a folder, and starts one if there is none.
func askCompilerDaemon(dir string, q compiler.Question) (*compiler.Reply, error) {
	return askCompiler(dir, q, true)
}

func askCompiler(dir string, q compiler.Question, begin bool) (*compiler.Reply, error) {
	f, err := launch.Connect(dir, begin)
	if err != nil {
		return nil, fmt.Errorf("the daemon of %s can't be reached: %w; its log is %s", dir, err, filepath.Join(dir, "daemon.log"))
	}
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return compiler.AskDaemon(conn.(*net.UnixConn), q)
}

// stopTime is how long an ending daemon is waited for.
const stopTime = 40 * time.Second

// stopCompilerDaemon ends the daemon of a folder, if there is one, and waits for its end.
func stopCompilerDaemon(dir string) error {
	lock, err := holdCompilerCache(dir)
	if err != nil {
		return err
	}
	return lock.Close()
}

// holdCompilerCache ends the daemon of a folder and sees to it that none is started until the file is
// closed.
func holdCompilerCache(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(launch.LockIn(dir), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(stopTime); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			return lock, nil
		}
		_, _ = askCompiler(dir, compiler.Question{Verb: "stop"}, false) // it may have ended since
	}
	lock.Close()
	return nil, fmt.Errorf("the daemon of %s does not end", dir)
}

func clearCompilerCache(dir string) error {
	lock, err := holdCompilerCache(dir)
	if err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(filepath.Join(dir, "store")), lock.Close())
}

func zeroCompilerStats(dir string) error {
	_, err := askCompilerDaemon(dir, compiler.Question{Verb: "zero"})
	return err
}

// setMaxSize writes a size into the settings. The next daemon obeys it.
func setMaxSize(dir, size string) error {
	if _, err := config.ParseSize(size); err != nil {
		return &usageError{err}
	}
	lock, err := holdCompilerCache(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	text, err := os.ReadFile(ccSettingsFile(dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "max_size:") {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	lines = append(lines, "max_size: "+size)
	temp := ccSettingsFile(dir) + ".new"
	if err := os.WriteFile(temp, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(temp, ccSettingsFile(dir))
}
