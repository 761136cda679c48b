package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/client"
	"github.com/sarsen-build/sarsen/config"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/files"
	pb "github.com/sarsen-build/sarsen/internal/workerpb"
	"github.com/sarsen-build/sarsen/upstream"
	"github.com/sarsen-build/sarsen/worker"
	"github.com/sarsen-build/sarsen/worker/sandbox"
	"github.com/sarsen-build/sarsen/worker/stage"
)

// workerSettings are what a worker is started with, by 'sarsen worker' or within 'sarsen up'.
type workerSettings struct {
	name       string
	dir        string
	slots      int
	sandbox    string
	chroot     bool
	maxSize    int64 // bytes of inputs kept
	properties []string
}

// workerDial keeps gRPC's own pauses between attempts short, since a worker has its own, and finds out within 30 s
// that the other end is gone without a word.
var workerDial = []grpc.DialOption{
	grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
		MinConnectTimeout: 10 * time.Second,
	}),
	grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second, PermitWithoutStream: true}),
}

func newWorkerCommand() *cobra.Command {
	w := workerSettings{}
	var scheduler, maxSize string
	cmd := &cobra.Command{
		Use:   "worker --scheduler HOST:PORT",
		Short: "Run actions for a Sarsen that listens elsewhere",
		Long: `Run actions for a Sarsen that listens elsewhere ('sarsen serve' or 'sarsen up').

Each action runs in a sandbox: its own user, processes, files and network. --sandbox=auto says at the
start what this machine can't give; strict refuses to start then, unless it is only cgroup limits or
Landlock; none runs actions as plain processes. With --chroot an action sees its input root as / and
nothing of this machine, as BuildStream wants it.

Ctrl-C (or SIGTERM) stops what runs, and the scheduler gives it to other workers. 'sarsen drain NAME'
lets a worker finish first.`,
		Example: "  sarsen worker --scheduler 10.0.0.1:8980 --dir /var/cache/sarsen-worker --slots 8\n  sarsen worker --scheduler 10.0.0.1:8980 --property pool=gpu --property cpu=16",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := loadSettings(cmd, "")
			if err != nil {
				return err
			}
			if w.maxSize, err = config.ParseSize(maxSize); err != nil {
				return &usageError{fmt.Errorf("--max-size: %w", err)}
			}
			if w.dir, err = filepath.Abs(w.dir); err != nil {
				return err
			}
			target, err := client.ParseTarget(scheduler)
			if err != nil {
				return &usageError{fmt.Errorf("--scheduler: %w", err)}
			}
			conn, err := reach(target, workerDial...)
			if err != nil {
				return err
			}
			defer conn.Close()
			log := newLogger(c, cmd.ErrOrStderr())
			ctx, cancel := untilSignal(log, cmd.ErrOrStderr(), true)
			defer cancel()
			far := workerServer{upstream.New(conn, "", upstream.Options{}), func(ctx context.Context) (pb.Workers_ConnectClient, error) {
				return pb.NewWorkersClient(conn).Connect(ctx)
			}}
			return runWorker(ctx, far, w, log, func() {
				fmt.Fprintf(cmd.OutOrStdout(), "sarsen worker %s is ready\n", w.name)
			})
		},
	}
	cmd.Flags().StringVar(&scheduler, "scheduler", "grpc://127.0.0.1:8980", "the server: grpc://HOST:PORT, or grpcs://HOST:PORT for TLS"+accessText)
	cmd.Flags().StringVar(&w.name, "name", hostName(), "this worker's name, unique among the workers of a scheduler")
	cmd.Flags().StringVar(&w.dir, "dir", defaultWorkerDir(), "where inputs are kept and actions run, on one file system")
	cmd.Flags().IntVar(&w.slots, "slots", runtime.NumCPU(), "how many actions run at once")
	cmd.Flags().StringVar(&w.sandbox, "sandbox", "auto", "auto, strict or none")
	cmd.Flags().BoolVar(&w.chroot, "chroot", false, "the input root is / for actions, which are root there; needs namespaces")
	cmd.Flags().StringVar(&maxSize, "max-size", "10GB", "how much disk inputs that are kept may take")
	cmd.Flags().StringArrayVar(&w.properties, "property", nil, "NAME=VALUE that actions may ask for; may be given several times")
	addSettings(cmd, "log-level", "log-format")
	complete(cmd, "sandbox", "auto", "strict", "none")
	_ = cmd.MarkFlagDirname("dir")
	return cmd
}

func hostName() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "worker"
	}
	return name
}

func defaultWorkerDir() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "sarsen-worker"
	}
	return filepath.Join(dir, "sarsen-worker")
}

// A workerServer is whom a worker serves: a scheduler and its store.
type workerServer struct {
	store   stage.Source
	connect func(context.Context) (pb.Workers_ConnectClient, error)
}

// A nearStore is the store of this process. Nothing lies between, so trees are read level by level.
type nearStore struct{ blob.Batcher }

func (nearStore) Tree(context.Context, digest.Digest) (map[digest.Digest]*repb.Directory, error) {
	return nil, nil
}

// runWorker serves a scheduler until ctx ends. It calls ready when the scheduler has welcomed the worker.
func runWorker(ctx context.Context, of workerServer, w workerSettings, log *slog.Logger, ready func()) error {
	properties, err := platform(w.properties)
	if err != nil {
		return err
	}
	if w.slots < 1 {
		return &usageError{fmt.Errorf("--slots %d: at least 1 is needed", w.slots)}
	}
	mode := sandbox.Mode(w.sandbox)
	if w.chroot && mode == sandbox.None {
		return &usageError{fmt.Errorf("--chroot needs a sandbox: it can't go with --sandbox=%s", mode)}
	}
	runner, err := sandbox.Start(sandbox.Options{Mode: mode, Chroot: w.chroot, Dir: w.dir, Log: log})
	if err != nil {
		return err
	}
	defer runner.Close()
	kept, err := files.Open(filepath.Join(w.dir, "files"), files.Options{MaxSize: w.maxSize, Lease: 10 * time.Minute, Log: log})
	if err != nil {
		return err
	}
	defer kept.Close()
	stager, err := stage.Open(stage.Options{Dir: filepath.Join(w.dir, "trees"), Files: kept, Source: of.store, Log: log})
	if err != nil {
		return err
	}
	defer stager.Close()
	one, err := worker.New(worker.Options{
		Connect: of.connect, Name: w.name, Dir: w.dir, Slots: w.slots, Version: shortVersion(), Properties: properties,
		Stager: stager, Store: of.store, Runner: runner, Log: log, Connected: ready,
	})
	if err != nil {
		return err
	}
	log.Info("worker", "name", w.name, "dir", w.dir, "slots", w.slots, "sandbox", w.sandbox, "chroot", w.chroot, "inputs", humanize.Bytes(uint64(w.maxSize)))
	return one.Run(ctx)
}

// platform reads properties, and adds the ones that the machine has by itself.
func platform(texts []string) ([]*repb.Platform_Property, error) {
	has := map[string]bool{}
	var ps []*repb.Platform_Property
	add := func(name, value string) {
		has[name] = true
		ps = append(ps, &repb.Platform_Property{Name: name, Value: value})
	}
	for _, text := range texts {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, &usageError{fmt.Errorf("--property %q: want NAME=VALUE", text)}
		}
		add(name, value)
	}
	own := map[string][]string{
		"OSFamily": {osFamily(runtime.GOOS)}, "ISA": isa(runtime.GOARCH), "cpu": {fmt.Sprint(runtime.NumCPU())}, "memory": memory(),
	}
	for name, values := range own {
		if has[name] {
			continue
		}
		for _, value := range values {
			add(name, value)
		}
	}
	return ps, nil
}

// memory returns how many bytes the machine has, where the system tells.
func memory() []string {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil
	}
	var kib int64
	if _, err := fmt.Sscanf(string(text), "MemTotal: %d kB", &kib); err != nil {
		return nil
	}
	return []string{fmt.Sprint(kib << 10)}
}

// osFamily returns the system's name as the Remote Execution API's platform.md has it.
func osFamily(system string) string {
	if system == "darwin" {
		return "macos"
	}
	return system
}

// isa returns the instruction set's names: the one of the Remote Execution API's platform.md, and BuildStream's.
func isa(arch string) []string {
	switch arch {
	case "amd64":
		return []string{"x86-64"}
	case "arm64":
		return []string{"arm-a64", "aarch64"}
	}
	return []string{arch}
}
