package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/sarsen-build/sarsen/config"
	"github.com/sarsen-build/sarsen/internal/tlsfiles"
	"github.com/sarsen-build/sarsen/redis"
	"github.com/sarsen-build/sarsen/s3"
	"github.com/sarsen-build/sarsen/s3/bucket"
	"github.com/sarsen-build/sarsen/tier"
)

// redisFlags are the settings that say where Redis is.
var redisFlags = []string{"redis", "redis-sentinel", "redis-tls", "redis-ca", "redis-credentials", "redis-prefix", "redis-timeout", "redis-connections"}

// A sharing is the Redis of servers that share a bucket. nil is none.
type sharing struct {
	client *redis.Client
	took   *prometheus.HistogramVec
}

// openSharing returns the Redis that c describes, which need not be there, or nil. The error is of what is on this machine.
func openSharing(c config.Redis, log *slog.Logger) (*sharing, error) {
	if len(c.Addresses) == 0 {
		return nil, nil
	}
	o := redis.Options{
		Addresses: c.Addresses, Sentinel: c.Sentinel, Username: os.Getenv("SARSEN_REDIS_USERNAME"), Password: os.Getenv("SARSEN_REDIS_PASSWORD"),
		Prefix: c.Prefix, Timeout: c.Timeout, Connections: c.Connections, Log: log,
	}
	if c.Credentials != "" {
		k, err := config.LoadRedisCredentials(c.Credentials)
		if err != nil {
			return nil, err
		}
		o.Username, o.Password = k.Username, k.Password
	}
	if c.TLS {
		over, err := tlsfiles.Client(c.CA, "", "")
		if err != nil {
			return nil, fmt.Errorf("redis.ca can't be used: %w", err)
		}
		o.TLS = over
	}
	s := &sharing{took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "sarsen_redis_pipeline_seconds", Help: "How long Redis took to answer a pipeline, by what it was for: read or write.",
		Buckets: []float64{.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5},
	}, []string{"for"})}
	reads, writes := s.took.WithLabelValues("read"), s.took.WithLabelValues("write")
	o.Took = func(read bool, took time.Duration) {
		if read {
			reads.Observe(took.Seconds())
		} else {
			writes.Observe(took.Seconds())
		}
	}
	var err error
	s.client, err = redis.New(o)
	return s, err
}

// bucket returns b, with its writes announced.
func (s *sharing) bucket(b bucket.Bucket) bucket.Bucket {
	if s == nil {
		return b
	}
	return s.client.Bucket(b)
}

// store returns far, with what others announced. It must be on what bucket returned.
func (s *sharing) store(far *s3.Store) tier.Far {
	if s == nil {
		return far
	}
	return s.client.Store(far)
}

func (s *sharing) close() {
	if s != nil {
		s.client.Close()
	}
}

func (s *sharing) register(with *prometheus.Registry) {
	if s != nil {
		with.MustRegister(s.took, numbers[redis.Stats]{redisNumbers, s.client.Stats})
	}
}

// redisStatus is what /status shows of Redis, nil if there is none.
func (h *behind) redisStatus() *redis.Stats {
	if h == nil || h.redis == nil {
		return nil
	}
	stats := h.redis.client.Stats()
	return &stats
}

var redisNumbers = []number[redis.Stats]{
	gauge("redis_away", "1 while this server does without Redis, or a part of its cluster, because it did not answer, refused or was slow.", func(s redis.Stats) float64 {
		if s.Away {
			return 1
		}
		return 0
	}),
	gauge("redis_connections", "Connections that are open.", func(s redis.Stats) float64 { return float64(s.Connections) }),
	gauge("redis_pipelines_under_way", "Pipelines that wait for an answer.", func(s redis.Stats) float64 { return float64(s.UnderWay) }),
	gauge("redis_waiting_bytes", "Bytes of entries that wait to be written.", func(s redis.Stats) float64 { return float64(s.Waiting) }),
	counter("redis_pipelines", "Pipelines that were sent: a round trip each.", func(s redis.Stats) float64 { return float64(s.Pipelines) }),
	counter("redis_commands", "Commands that were sent.", func(s redis.Stats) float64 { return float64(s.Commands) }),
	counter("redis_sent_bytes", "Bytes of keys and entries that were sent.", func(s redis.Stats) float64 { return float64(s.BytesOut) }),
	counter("redis_received_bytes", "Bytes of entries that came.", func(s redis.Stats) float64 { return float64(s.BytesIn) }),
	counter("redis_failed_commands", "Commands that had no answer, those that had none in time included.", func(s redis.Stats) float64 { return float64(s.Failed) }),
	counter("redis_timed_out_commands", "Commands that had no answer within redis.timeout.", func(s redis.Stats) float64 { return float64(s.Timeouts) }),
	counter("redis_refused_commands", "Commands that were answered with an error: out of memory, read only, loading, no permission.", func(s redis.Stats) float64 { return float64(s.Refused) }),
	counter("redis_slow_pipelines", "Pipelines that took longer than a second; each is logged.", func(s redis.Stats) float64 { return float64(s.Slow) }),
	counter("redis_hits", "Entries that were asked for and there.", func(s redis.Stats) float64 { return float64(s.Hits) }),
	counter("redis_misses", "Entries that were asked for and not there.", func(s redis.Stats) float64 { return float64(s.Misses) }),
	counter("redis_served", "Small blobs and results that were not read from the bucket, as Redis had them.", func(s redis.Stats) float64 { return float64(s.Served) }),
	counter("redis_adopted", "Blobs and results of other servers that were found by what Redis has.", func(s redis.Stats) float64 { return float64(s.Adopted) }),
	counter("redis_stale_entries", "Entries that named what the bucket has no more.", func(s redis.Stats) float64 { return float64(s.Stale) }),
	counter("redis_announced", "Entries that were written.", func(s redis.Stats) float64 { return float64(s.Announced) }),
	counter("redis_lost", "Entries that were not written: others find these blobs and results later.", func(s redis.Stats) float64 { return float64(s.Lost) }),
	counter("redis_corrupt_entries", "Entries that did not verify; they are left out.", func(s redis.Stats) float64 { return float64(s.Corrupt) }),
}

func newCheckRedisCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "redis [--redis HOST:PORT,... --bucket NAME | --config FILE]",
		Short: "Check whether a Redis takes what Sarsen asks of it",
		Long: `Run each command that Sarsen uses, on a key of its own, and show which servers there are and what they do when
they are full. The status is 1 if it can't be reached or refuses anything. A server would go on without it.`,
		Example: "  sarsen check redis --config sarsen.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := loadSettings(cmd, cmd.Flag("config").Value.String())
			if err != nil {
				return err
			}
			if len(c.Redis.Addresses) == 0 {
				return &usageError{errors.New("which Redis? Name it with --redis and --bucket, or --config")}
			}
			s, err := openSharing(c.Redis, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			defer s.close()
			report, err := s.client.Check(cmd.Context())
			if err != nil {
				return explainRedis(c.Redis, err)
			}
			return printReport(cmd.OutOrStdout(), report)
		},
	}
	addConfigFile(cmd)
	addSettings(cmd, append([]string{"bucket", "bucket-prefix"}, redisFlags...)...)
	return cmd
}

// explainRedis says in one sentence why Redis can't be used and what to do.
func explainRedis(c config.Redis, err error) error {
	at := strings.Join(c.Addresses, ",")
	var refused *net.OpError
	var dns *net.DNSError
	var unknown x509.UnknownAuthorityError
	text := err.Error()
	hint := ""
	switch {
	case errors.As(err, &dns):
		hint = "its host is not known here; see redis.address"
	case errors.As(err, &unknown):
		hint = "its certificate is signed by nobody who is trusted here; name the CA's file in redis.ca"
	case strings.Contains(text, "WRONGPASS") || strings.Contains(text, "NOAUTH"):
		hint = "it refuses the user or the password; see redis.credentials"
	case strings.Contains(text, "unknown command 'SENTINEL'"):
		hint = "it is no sentinel; leave redis.sentinel out, or name the sentinels in redis.address"
	case strings.Contains(text, "unknown message type"):
		hint = "it does not speak Redis' protocol; see redis.address"
	case strings.Contains(text, "NOPERM"):
		hint = "the user may not do all that is needed: +get +getrange +set +eval +del on ~" + c.Prefix + "*"
	case strings.Contains(text, "MOVED"):
		hint = "it is a cluster's node, and the user may not ask where the others are: +cluster|slots +cluster|shards"
	case errors.Is(err, context.DeadlineExceeded):
		hint = "it does not answer within redis.timeout, as one that does not speak TLS where redis.tls is on"
	case !c.TLS && (errors.Is(err, io.EOF) || strings.Contains(text, "connection reset")):
		hint = "it closes connections, as one that speaks TLS where redis.tls is off"
	case errors.As(err, &refused):
		hint = "it can't be reached; see redis.address"
	}
	if hint != "" {
		return fmt.Errorf("the Redis at %s can't be used: %w: %s", at, err, hint)
	}
	return fmt.Errorf("the Redis at %s can't be used: %w", at, err)
}

func printReport(w io.Writer, r redis.Report) error {
	kind := "one server"
	if r.Cluster {
		kind = fmt.Sprintf("a cluster of %d servers", len(r.Nodes))
	}
	lines := []string{fmt.Sprintf("%s; every command is answered, in %s", kind, r.Took.Round(10*time.Microsecond))}
	for _, n := range r.Nodes {
		line := n.Address
		if n.Version != "" {
			line += "  " + n.Version
		}
		if n.Replica {
			line += ", replica"
		}
		switch {
		case n.Policy == "":
		case n.MaxMemory == 0:
			line += ", no maxmemory: it grows until the machine has no memory left; set maxmemory, and maxmemory-policy allkeys-lru"
		case n.Policy == "noeviction":
			line += ", " + humanize.IBytes(uint64(n.MaxMemory)) + ", takes nothing new when it is full; maxmemory-policy allkeys-lru forgets what was not used"
		default:
			line += ", " + humanize.IBytes(uint64(n.MaxMemory)) + ", " + n.Policy
		}
		lines = append(lines, line)
	}
	_, err := fmt.Fprintln(w, strings.Join(lines, "\n"))
	return err
}

// checkSharing says what is wrong with the files that the settings of Redis name.
func checkSharing(c config.Redis) error {
	if c.Credentials != "" {
		if _, err := config.LoadRedisCredentials(c.Credentials); err != nil {
			return err
		}
	}
	if c.CA != "" {
		if _, err := tlsfiles.Client(c.CA, "", ""); err != nil {
			return fmt.Errorf("redis.ca can't be used: %w", err)
		}
	}
	return nil
}
