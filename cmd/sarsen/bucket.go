package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/config"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/s3"
	"github.com/sarsen-build/sarsen/s3/bucket"
	"github.com/sarsen-build/sarsen/segment"
	"github.com/sarsen-build/sarsen/tier"
)

// A store is what the servers need of what holds blobs: the ring alone, or the ring before a bucket.
type store interface {
	blob.Batcher
	blob.Records
	blob.Keeper
}

// A behind is the bucket behind the ring, and what is done with it in the background.
type behind struct {
	config config.Bucket
	log    *slog.Logger
	ring   *segment.Ring
	far    *s3.Store
	redis  *sharing
	tier   *tier.Store

	stop  context.CancelFunc
	tasks sync.WaitGroup
}

// openBucket returns the bucket that c describes, once it has answered.
func openBucket(ctx context.Context, c config.Bucket) (*bucket.S3, error) {
	o := bucket.Options{
		Bucket: c.Name, Prefix: c.Prefix, Endpoint: c.Endpoint, Region: c.Region, PathStyle: c.UsePathStyle(), Profile: c.Profile,
	}
	if c.Credentials != "" {
		k, err := config.LoadBucketKeys(c.Credentials)
		if err != nil {
			return nil, err
		}
		o.AccessKey, o.SecretKey, o.SessionToken = k.AccessKey, k.SecretKey, k.SessionToken
	}
	ctx, cancel := context.WithTimeoutCause(ctx, answerWithin, errSilent)
	defer cancel()
	b, err := bucket.Open(ctx, o)
	if err == nil {
		c.Region = b.Region()
		err = b.Probe(ctx)
	}
	if err != nil && context.Cause(ctx) == errSilent {
		err = fmt.Errorf("%w: %w", errSilent, err)
	}
	if err != nil {
		return nil, explainBucket(c, err)
	}
	return b, nil
}

// answerWithin is how long a bucket may take to answer first, all tries together.
const answerWithin = 30 * time.Second

var errSilent = errors.New("it did not answer within " + config.FormatDuration(answerWithin))

// explainBucket says in one sentence why a bucket can't be used, and which setting to look at.
func explainBucket(c config.Bucket, err error) error {
	server := c.Endpoint
	if server == "" {
		server = strings.TrimSuffix("AWS in "+c.Region, " in ")
	}
	keys := "AWS's variables, the shared configuration or the machine's role; set bucket.credentials or bucket.profile for others"
	if c.Credentials != "" {
		keys = "bucket.credentials, " + c.Credentials
	} else if c.Profile != "" {
		keys = "bucket.profile, " + c.Profile
	}
	cause := err
	var known *bucket.Error
	if errors.As(err, &known) {
		cause = known.Err
	}
	var dns *net.DNSError
	var refused *net.OpError
	var untrusted *tls.CertificateVerificationError
	var notTLS tls.RecordHeaderError
	switch {
	case errors.As(err, &dns):
		return fmt.Errorf("the server of the bucket, %s, has a host that is not known here (%s); see bucket.endpoint and bucket.region", server, dns.Name)
	case errors.As(err, &untrusted):
		return fmt.Errorf("the server of the bucket, %s, has a certificate that is not trusted here: %w; AWS_CA_BUNDLE names a file with more authorities", server, untrusted.Err)
	case errors.As(err, &notTLS), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("the server of the bucket, %s, does not speak TLS; write http:// in bucket.endpoint", server)
	case errors.Is(err, errSilent):
		return fmt.Errorf("the server of the bucket, %s, can't be reached: %w; see bucket.endpoint", server, errSilent)
	case errors.As(err, &refused) && refused.Op == "read" && strings.HasPrefix(c.Endpoint, "http://"):
		return fmt.Errorf("the server of the bucket, %s, broke off (%w); if it speaks TLS, write https:// in bucket.endpoint", server, refused)
	case errors.As(err, &refused):
		return fmt.Errorf("the server of the bucket, %s, can't be reached (%w); see bucket.endpoint", server, refused)
	case errors.Is(err, bucket.ErrNoBucket):
		return fmt.Errorf("%w %q at %s; create it, or see bucket.name, bucket.endpoint and bucket.path-style", bucket.ErrNoBucket, c.Name, server)
	case errors.Is(err, bucket.ErrCredentials):
		return fmt.Errorf("the bucket %s at %s can't be used: %w; they are those of %s; they must allow to list the bucket, and to get, put and delete its objects", c.Name, server, cause, keys)
	case errors.Is(err, bucket.ErrNoCredentials):
		return fmt.Errorf("%w for the bucket %s at %s: looked for were those of %s: %w", bucket.ErrNoCredentials, c.Name, server, keys, cause)
	case errors.Is(err, bucket.ErrRegion):
		return fmt.Errorf("the bucket %s at %s is in another region than %s; see bucket.region: %w", c.Name, server, c.Region, err)
	case errors.Is(err, bucket.ErrClock):
		return fmt.Errorf("the bucket %s at %s refuses requests by this machine's clock, which says %s; set it (NTP): %w", c.Name, server, time.Now().UTC().Format(time.RFC3339), cause)
	}
	return fmt.Errorf("the bucket %s at %s can't be used: %w", c.Name, server, err)
}

// sessionOptions are those of a session of this machine.
func sessionOptions(c *config.Config, log *slog.Logger) s3.Options {
	host, _ := os.Hostname() // it is only shown
	return s3.Options{Lease: c.Lease, Heartbeat: c.Bucket.Heartbeat, Host: host, Log: log}
}

// startBucket puts the bucket that c describes behind the ring. What the ring keeps goes there first, since the bucket
// keeps from then on.
func startBucket(ctx context.Context, c *config.Config, ring *segment.Ring, log *slog.Logger) (_ *behind, err error) {
	b, err := openBucket(ctx, c.Bucket)
	if err != nil {
		return nil, err
	}
	o := sessionOptions(c, log)
	o.Lookup = true
	o.SpoolFS, o.Spool = vfs.OS{}, filepath.Join(c.Dir, "climbing")
	if err := emptyDir(o.Spool); err != nil {
		return nil, fmt.Errorf("uploads to the bucket can't wait in %s: %w", o.Spool, err)
	}
	shared, err := openSharing(c.Redis, log)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	far, err := s3.Open(ctx, shared.bucket(b), o)
	if err != nil {
		shared.close()
		return nil, explainBucket(c.Bucket, err)
	}
	stats := far.Stats()
	log.Info("bucket open", "bucket", b.String(), "blobs", stats.Blobs, "results", stats.Records, "took", time.Since(began).Round(time.Millisecond))
	t := tier.New(ring, shared.store(far), tier.Options{WriteBack: c.Bucket.WriteBack, Queue: c.Bucket.Queue, Log: log})
	h := &behind{config: c.Bucket, log: log, ring: ring, far: far, redis: shared, tier: t}
	if err := h.moveRoots(ctx); err != nil {
		err = errors.Join(err, t.Close(ctx), far.Close())
		shared.close()
		return nil, err
	}
	// Nobody's own context: it ends in close.
	ctx, h.stop = context.WithCancel(context.Background())
	if c.Bucket.WriteBack {
		h.tasks.Go(func() { h.climb(ctx) })
	}
	if c.Bucket.Refresh > 0 {
		h.tasks.Go(func() { h.refresh(ctx) })
	}
	if c.Bucket.Collect > 0 {
		h.tasks.Go(func() { h.collectAgain(ctx) })
	}
	return h, nil
}

// emptyDir makes a directory, and removes what a killed process left there.
func emptyDir(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o755)
}

// moveRoots lets the bucket keep what the ring kept when it was alone.
func (h *behind) moveRoots(ctx context.Context) error {
	var roots []blob.Root
	for root, err := range h.ring.Kept(ctx, "") {
		if err != nil {
			return fmt.Errorf("what the disk keeps can't be listed: %w", err)
		}
		roots = append(roots, root)
	}
	if len(roots) == 0 {
		return nil
	}
	h.log.Info("backups move from the disk to the bucket", "roots", len(roots))
	there := map[string]blob.Root{}
	for root, err := range h.far.Kept(ctx, "") {
		if err != nil {
			return explainBucket(h.config, err)
		}
		there[root.Name] = root
	}
	for _, root := range roots {
		if err := h.moveRoot(ctx, root, there); err != nil {
			return fmt.Errorf("what the disk keeps as %s can't be moved to the bucket: %w", root.Name, err)
		}
	}
	return nil
}

// moveRoot lets the bucket keep a root instead of the ring. One that has a hole stays where it is: a restore may yet
// save the rest, and a server that does not start saves nothing.
func (h *behind) moveRoot(ctx context.Context, root blob.Root, there map[string]blob.Root) error {
	if old, ok := there[root.Name]; ok && !sameRoot(old, root) {
		h.log.Warn("the bucket keeps something else under this name, so the disk's stays on the disk, out of sight", "root", root.Name)
		return nil
	} else if !ok {
		blobs, err := root.Blobs(ctx, h.ring)
		if err == nil {
			err = h.tier.Keep(ctx, root.Name, root.Value, blobs)
		}
		var hole *blob.MissingError
		if errors.As(err, &hole) || errors.Is(err, blob.ErrNotFound) {
			h.log.Error("what the disk keeps under this name is damaged, so it stays on the disk, out of sight", "root", root.Name, "err", err)
			return nil
		}
		if err != nil {
			return err
		}
	}
	// Also where a process was killed right here.
	return h.ring.Release(ctx, root.Name)
}

func sameRoot(a, b blob.Root) bool {
	return bytes.Equal(a.Value, b.Value) && a.List == b.List && slices.Equal(a.Few, b.Few)
}

// climb lets what an earlier process acknowledged, and did not bring to the bucket, go there.
func (h *behind) climb(ctx context.Context) {
	blobs := slices.DeleteFunc(h.ring.Blobs(), h.far.Knows)
	keys := slices.DeleteFunc(h.ring.RecordKeys(), h.far.KnowsRecord)
	if len(blobs)+len(keys) == 0 {
		return
	}
	var bytes int64
	for _, d := range blobs {
		bytes += d.Size
	}
	h.log.Info("what is only on the disk goes to the bucket", "blobs", len(blobs), "results", len(keys), "size", humanize.Bytes(uint64(bytes)))
	if err := h.tier.ClimbAll(ctx, slices.Values(blobs), slices.Values(keys)); err != nil && ctx.Err() == nil {
		h.log.Warn("not all that is only on the disk goes to the bucket now; the next start tries again", "err", err)
	}
}

// refresh looks for what other servers wrote, now and then.
func (h *behind) refresh(ctx context.Context) {
	for sleep(ctx, h.config.Refresh) {
		if err := h.far.Refresh(ctx); err != nil && ctx.Err() == nil {
			h.log.Warn("the bucket could not be listed", "err", err)
		}
	}
}

// sleep waits, for a little less or more than d, and reports false if ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d - d/20 + rand.N(d/10+1))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// close lets what waits climb until ctx ends, and ends the session. What is left stays on the disk, and climbs when
// this server starts again.
func (h *behind) close(ctx context.Context) error {
	h.stop()
	h.tasks.Wait()
	err := h.tier.Close(ctx)
	err = errors.Join(err, h.far.Close())
	h.redis.close()
	return err
}

// A bucketStatus is what /status shows of the bucket.
type bucketStatus struct {
	Name    string     `json:"name"`
	Session s3.Stats   `json:"session"`
	Climb   tier.Stats `json:"climb"`
}

// status returns nil if there is no bucket.
func (h *behind) status() *bucketStatus {
	if h == nil {
		return nil
	}
	return &bucketStatus{h.config.Name + "/" + h.config.Prefix, h.far.Stats(), h.tier.Stats()}
}
