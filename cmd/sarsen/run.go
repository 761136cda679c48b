package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/asset"
	"github.com/sarsen-build/sarsen/backup"
	"github.com/sarsen-build/sarsen/backup/pbs"
	"github.com/sarsen-build/sarsen/chunk"
	"github.com/sarsen-build/sarsen/chunk/mapping"
	"github.com/sarsen-build/sarsen/config"
	"github.com/sarsen-build/sarsen/execution"
	"github.com/sarsen-build/sarsen/httpcache"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/redis"
	"github.com/sarsen-build/sarsen/s3"
	"github.com/sarsen-build/sarsen/segment"
	"github.com/sarsen-build/sarsen/server"
	"github.com/sarsen-build/sarsen/tier"
)

// A stop takes 30 s in all: what is in flight gets the first part, then it is cut, and the store has
// the rest to write footers and sync.
const (
	drainWithin = 18 * time.Second
	cutWithin   = 4 * time.Second
	closeWithin = 8 * time.Second
	stopWithin  = drainWithin + cutWithin + closeWithin

	// connectWithin is how long the start waits for its own worker.
	connectWithin = 10 * time.Second
)

// run starts what c describes, says so on stdout when all of it works, and serves until a signal
// comes or a part fails. Services start in the order listeners, store, bucket, servers, and stop in the
// opposite order, so that no call finds its store closed. With reload, a hangup signal does not stop it
// but reads the configuration again.
func run(c *config.Config, reload func() (*config.Config, error), own *workerSettings, stdout, stderr io.Writer) error {
	// Without this, "sarsen up | tee log" would die of the first line after tee, in the midst of
	// closing the store.
	signal.Ignore(syscall.SIGPIPE)
	log := newLogger(c, stderr)
	ctx, cancel := untilSignal(log, stderr, reload == nil)
	defer cancel()
	hangups := make(chan os.Signal, 1)
	if reload != nil {
		signal.Notify(hangups, syscall.SIGHUP)
	}

	s := &services{config: c, log: log, failed: make(chan error, 4)}
	err := s.start(ctx)
	if err == nil {
		err = selfCheck(ctx, s.grpcListener.Addr().String(), s.httpListener.Addr().String(), log)
	}
	if err == nil && own != nil && own.slots != 0 {
		err = s.startWorker(*own)
	}
	if err == nil {
		if reload != nil {
			go s.reloadOn(ctx, hangups, reload)
		}
		slots := 0
		if own != nil {
			slots = own.slots
		}
		printReady(stdout, c, s.grpcAddr(), s.httpAddr(), s.pbsNotice(), slots)
		select {
		case <-ctx.Done():
		case err = <-s.failed:
		}
	}
	// A signal that came while starting is no error, whatever it cut short.
	if ctx.Err() != nil {
		err = nil
	}
	if stopErr := s.stop(); err == nil {
		err = stopErr
	}
	return err
}

// untilSignal returns a context that ends with the first signal to stop, of which a hangup may be one.
// The second ends the process.
func untilSignal(log *slog.Logger, stderr io.Writer, hangup bool) (context.Context, context.CancelFunc) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	// A closed terminal stops Sarsen too, unless it was started with nohup.
	if hangup && !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(signals, syscall.SIGHUP)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		log.Info("stopping; a second signal stops at once", "signal", (<-signals).String())
		cancel()
		<-signals
		fmt.Fprintln(stderr, "sarsen: stopped at once by a second signal; the next start recovers the store")
		os.Exit(statusError)
	}()
	return ctx, cancel
}

// services are the running parts. What was not started is nil.
type services struct {
	config *config.Config
	log    *slog.Logger

	grpcListener, httpListener net.Listener
	ring                       *segment.Ring
	behind                     *behind // the bucket, or nil
	store                      store   // the ring, or the ring before the bucket
	grpc                       *server.Server
	http                       *http.Server
	scheduler                  *execution.Scheduler
	access                     *backup.Access
	pbsListener                net.Listener
	pbs                        *pbs.Server
	stopWorker                 func()     // or nil
	failed                     chan error // gets why a listener ended by itself
}

// start starts everything. After an error, stop stops what was started.
func (s *services) start(ctx context.Context) (err error) {
	if s.grpcListener, err = listen(ctx, "gRPC", "--grpc", s.config.GRPC); err != nil {
		return err
	}
	if s.httpListener, err = listen(ctx, "HTTP", "--http", s.config.HTTP); err != nil {
		return err
	}
	if s.config.PBS != "" {
		if s.pbsListener, err = listen(ctx, "Proxmox backup", "--pbs", s.config.PBS); err != nil {
			return err
		}
	}
	if s.access, err = backupAccess(s.config.Backups); err != nil {
		return err
	}
	began := time.Now()
	s.ring, err = segment.Open(ctx, vfs.OS{}, s.config.Dir, segment.Options{
		MaxSize: s.config.MaxSize, Lease: s.config.Lease, Durability: s.config.Durability, Log: s.log,
	})
	if err != nil {
		s.ring = nil
		return explainOpen(s.config.Dir, err)
	}
	s.store = s.ring
	stats := s.ring.Stats()
	s.log.Info("store open", "dir", s.config.Dir, "blobs", stats.Blobs, "results", stats.Records,
		"used", humanize.Bytes(uint64(stats.UsedBytes)), "max", config.FormatSize(s.config.MaxSize), "took", time.Since(began).Round(time.Millisecond))
	if s.config.Bucket.Name != "" {
		if s.behind, err = startBucket(ctx, s.config, s.ring, s.log); err != nil {
			return err
		}
		s.store = s.behind.tier
	}
	s.wire()
	if err := s.startPBS(ctx); err != nil {
		return err
	}
	s.serve("gRPC", s.grpcListener, s.grpc.Serve)
	s.serve("HTTP", s.httpListener, s.http.Serve)
	return nil
}

// wire makes the servers on the open store.
func (s *services) wire() {
	actions := action.New(s.store, s.store)
	s.scheduler = execution.New(execution.Options{
		Actions: actions, Store: s.store, Lease: s.config.Lease, UnsatisfiableTimeout: s.config.UnsatisfiableTimeout, Log: s.log,
	})
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		numbers[segment.Stats]{storeNumbers, s.ring.Stats}, numbers[execution.Stats]{executionNumbers, s.scheduler.Stats})
	if s.behind != nil {
		metrics.MustRegister(numbers[s3.Stats]{bucketNumbers, s.behind.far.Stats}, numbers[tier.Stats]{tierNumbers, s.behind.tier.Stats})
		s.behind.redis.register(metrics)
	}
	s.grpc = server.New(server.Options{
		Store:       s.store,
		Actions:     actions,
		Scheduler:   s.scheduler,
		Assets:      asset.New(s.store, s.store),
		Chunks:      mapping.New(s.store, s.store, chunk.Recommended()),
		Keeper:      s.store,
		HTTPAddr:    s.httpAddr,
		MaxBlobSize: s.ring.MaxBlobSize(),
		Log:         s.log,
		Metrics:     metrics,
	})
	stopping, stop := context.WithCancel(context.Background())
	s.http = &http.Server{
		Handler: httpcache.New(httpcache.Options{
			Store:       s.store,
			Actions:     actions,
			SpoolDir:    filepath.Join(s.config.Dir, "spool"),
			MaxBlobSize: s.ring.MaxBlobSize(),
			GRPCAddr:    s.grpcAddr,
			Status:      s.status,
			Fsck:        s.fsck(stopping),
			Collect:     s.collect(stopping),
			Backup: backup.New(backup.Options{
				Store: s.store, Keeper: s.store, Shared: s.behind != nil, Access: s.access, SpoolDir: filepath.Join(s.config.Dir, "spool"),
				MaxBlobSize: s.ring.MaxBlobSize(), Log: s.log,
			}),
			Version: shortVersion(),
			Log:     s.log,
			Metrics: metrics,
		}),
		// A large upload over a slow line may take hours, so whole requests have no limit; the handler
		// bounds each read and write.
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       5 * time.Minute,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	s.http.RegisterOnShutdown(stop)
}

// serve runs a server's accept loop.
func (s *services) serve(name string, l net.Listener, loop func(net.Listener) error) {
	go func() {
		if err := loop(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.failed <- fmt.Errorf("the %s server stopped by itself: %w", name, err)
		}
	}()
}

// startWorker runs a worker of this process's own, which reaches scheduler and store without gRPC.
func (s *services) startWorker(w workerSettings) error {
	near := workerServer{nearStore{s.store}, s.grpc.ConnectWorker}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(done)
		if err := runWorker(ctx, near, w, s.log, func() { ready <- nil }); err != nil {
			select {
			case ready <- err:
			default:
				s.failed <- fmt.Errorf("the worker stopped by itself: %w", err)
			}
		}
	}()
	s.stopWorker = func() { cancel(); <-done }
	select {
	case err := <-ready:
		return err
	case <-time.After(connectWithin):
		s.log.Warn("the worker has not reached the scheduler yet; it goes on trying")
		return nil
	}
}

// status is what /status shows of the store.
func (s *services) status() any {
	return struct {
		Dir        string             `json:"dir"`
		Lease      string             `json:"lease"`
		Durability segment.Durability `json:"durability"`
		Store      segment.Stats      `json:"store"`
		PBS        any                `json:"proxmox_backup,omitempty"`
		Bucket     *bucketStatus      `json:"bucket,omitempty"`
		Redis      *redis.Stats       `json:"redis,omitempty"`
	}{s.config.Dir, config.FormatDuration(s.config.Lease), s.config.Durability, s.ring.Stats(), s.pbsStatus(), s.behind.status(), s.behind.redisStatus()}
}

func (s *services) grpcAddr() string { return advertised(s.config.GRPC, s.grpcListener.Addr()) }
func (s *services) httpAddr() string { return advertised(s.config.HTTP, s.httpListener.Addr()) }

// stop stops what was started: first both servers at once, then the way to the bucket, then the ring.
func (s *services) stop() error {
	began := time.Now()
	if s.grpc != nil {
		s.stopServers()
	} else {
		closeListener(s.grpcListener)
		closeListener(s.httpListener)
		closeListener(s.pbsListener)
	}
	if s.behind != nil {
		// What the servers left of their time is for what waits to climb. Should it take longer, it is on the disk.
		climbing, cancel := context.WithDeadline(context.Background(), began.Add(drainWithin+cutWithin))
		defer cancel()
		cut, cancelCut := context.WithDeadline(context.Background(), began.Add(drainWithin+cutWithin+cutWithin))
		defer cancelCut()
		done := make(chan error, 1)
		go func() { done <- s.behind.close(climbing) }()
		_ = s.await(cut, "way to the bucket", done)
	}
	if s.ring == nil {
		return nil
	}
	closing, cancel := context.WithTimeout(context.Background(), min(closeWithin, stopWithin-time.Since(began)))
	defer cancel()
	storeDone := make(chan error, 1)
	go func() { storeDone <- s.ring.Close() }()
	if err := s.await(closing, "store", storeDone); err != nil {
		return fmt.Errorf("the store in %s was not closed cleanly (%w); the next start recovers it", s.config.Dir, err)
	}
	if s.grpc != nil {
		s.log.Info("stopped", "took", time.Since(began).Round(time.Millisecond))
	}
	return nil
}

// stopServers lets calls end, and cuts those that don't.
func (s *services) stopServers() {
	if s.stopWorker != nil {
		s.stopWorker()
	}
	draining, cancel := context.WithTimeout(context.Background(), drainWithin)
	defer cancel()
	httpDone, grpcDone, pbsDone := make(chan error, 1), make(chan error, 1), make(chan error, 1)
	go func() { pbsDone <- s.stopPBS(draining) }()
	go func() { httpDone <- s.stopHTTP(draining) }()
	go func() { grpcDone <- s.stopGRPC(draining) }()
	cut, cancelCut := context.WithTimeout(context.Background(), drainWithin+cutWithin)
	defer cancelCut()
	// A late step is given up with a warning, so that the store is closed in any case.
	_ = s.await(cut, "HTTP server", httpDone)
	_ = s.await(cut, "gRPC server", grpcDone)
	if s.pbsListener != nil {
		_ = s.await(cut, "Proxmox backup server", pbsDone)
	}
	s.scheduler.Close()
}

var errLate = errors.New("it took too long")

// await waits for one step of stopping until ctx ends, and logs how it went.
func (s *services) await(ctx context.Context, name string, done <-chan error) error {
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		err = errLate
	}
	if err != nil {
		s.log.Warn(name+" did not stop cleanly", "err", err)
	} else {
		s.log.Info(name + " stopped")
	}
	return err
}

// stopGRPC sends clients away and lets calls finish until ctx ends; then it cuts them.
func (s *services) stopGRPC(ctx context.Context) error {
	s.grpc.Stop(ctx)
	if ctx.Err() != nil {
		return fmt.Errorf("calls that were still running after %s were cut", drainWithin)
	}
	return nil
}

// stopHTTP lets requests finish until ctx ends; then it cuts them.
func (s *services) stopHTTP(ctx context.Context) error {
	if err := s.http.Shutdown(ctx); err == nil {
		return nil
	}
	if err := s.http.Close(); err != nil {
		return err
	}
	return fmt.Errorf("requests that were still running after %s were cut", drainWithin)
}

func closeListener(l net.Listener) {
	if l != nil {
		_ = l.Close()
	}
}
