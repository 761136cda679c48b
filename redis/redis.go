// Package redis is what several servers on one bucket share beside it: which object holds a blob or record, and the bytes
// of small ones. It stands around a store on a bucket: Bucket below the store, and Store above it.
//
// An entry in Redis is the name of an object and, of a small one, its bytes. The names of objects are never used again, so an
// entry may be old but never wrong. A blob that has no entry is looked for in the bucket, as it is without Redis.
//
// # Invariants
//
//   - NoFalseYes: Redis never says yes. What it names is looked for in the bucket and enters the store's ledger; the
//     ledger says yes.
//   - Immutable: bytes from Redis are handed on only if they are those of the object that the ledger names, and, of
//     a blob, if they hash to its digest. Results can't be verified so: whoever may write to Redis may write results.
//   - Of a record the greatest name stands, in Redis as in the bucket.
//   - Redis may be away, slow, full, empty or behind: nothing fails by that. A failure is a miss, and never bytes of length 0.
//   - A command has one key, so that a cluster needs no key tags. A pipeline has at most 5,000 commands.
//
// # Concurrency
//
// All methods may be called from many goroutines at once. One goroutine sends what is announced; mutexes guard memory only.
//
// # Crashes
//
// What is announced comes after the object is in the bucket, and before the put is acknowledged. An announcement that is lost is
// an object that other servers find later: by a look into the bucket, or by their next listing.
package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/sarsen-build/sarsen/internal/breaker"
)

// Options say where Redis is and what is kept there.
type Options struct {
	// Addresses are host:port of a server, or of some nodes of a cluster, or of sentinels.
	Addresses []string
	// Sentinel is the name of the master that the sentinels know. "" says that Addresses are no sentinels.
	Sentinel           string
	Username, Password string
	TLS                *tls.Config // nil is none
	// Prefix begins every key. "" is "sarsen:". Servers on one bucket, or on one folder of it, have the same, and no others do.
	Prefix string
	// TTL is how long an entry stays after it was written. 0 is a day.
	TTL time.Duration
	// MaxBlob and MaxRecord are up to how many bytes a blob, and an object that is a record, lie in Redis themselves.
	// 0 is 8 KiB and 64 KiB; a negative number is none at all.
	MaxBlob, MaxRecord int64
	// Timeout is how long a pipeline may take before the answer is a miss. 0 is two seconds.
	Timeout time.Duration
	// Connections to each server, rounded up to a power of two; long pipelines take others, 16 at most or as many. 0 is four.
	Connections int
	// Took is told of every pipeline how long it took. nil is nobody.
	Took func(reads bool, took time.Duration)
	Log  *slog.Logger
}

// A Client is Redis as servers on one bucket use it.
type Client struct {
	o    Options
	log  *slog.Logger
	dial rueidis.ClientOption

	client      atomic.Pointer[rueidis.Client] // nil until Redis was reached for the first time
	connecting  sync.Mutex                     // held by who tries to
	unreached   atomic.Pointer[error]          // why the last try failed, or nil
	parts       [parts]part
	write       writer
	connections connections

	ctx    context.Context // ended by Close
	stop   context.CancelFunc
	group  sync.WaitGroup
	counts counts
}

// parts is how many ranges of a cluster's slots are away or not by themselves, so that one node does not take the others
// with it. Without a cluster the first stands for all.
const parts = 16

// A part is what was seen of some slots.
type part struct{ reads, writes breaker.Breaker }

// New returns the client of a Redis, which need not be there yet: it is tried again from time to time. It returns
// an error for options that can't be meant.
func New(o Options) (*Client, error) {
	if len(o.Addresses) == 0 {
		return nil, errors.New("redis: no address is given")
	}
	for _, a := range o.Addresses {
		if _, _, err := net.SplitHostPort(a); err != nil {
			return nil, fmt.Errorf("redis: %q is not host:port: %w", a, err)
		}
	}
	if strings.ContainsAny(o.Prefix, "{}") {
		return nil, fmt.Errorf("redis: prefix %q: braces would put all keys on one node of a cluster", o.Prefix)
	}
	if o.Timeout < 0 || o.TTL < 0 || o.Connections < 0 {
		return nil, errors.New("redis: a timeout, a TTL or a number of connections is negative")
	}
	c := &Client{o: o.withDefaults()}
	c.log = c.o.Log
	c.dial = rueidis.ClientOption{
		InitAddress: o.Addresses, Username: o.Username, Password: o.Password, TLSConfig: o.TLS,
		Sentinel:   rueidis.SentinelOption{MasterSet: o.Sentinel, TLSConfig: o.TLS, Username: o.Username, Password: o.Password},
		ClientName: "sarsen",
		Dialer:     net.Dialer{Timeout: c.o.Timeout},
		DialCtxFn:  c.open,
		// It bounds the time that a connection is silent. What one call waits is bounded by its context.
		ConnWriteTimeout:  2 * c.o.Timeout,
		PipelineMultiplex: bits.Len(uint(c.o.Connections - 1)),
		// Long pipelines have connections of their own, so that nobody waits behind them.
		BlockingPoolSize:    max(16, c.o.Connections),
		BlockingPoolCleanup: time.Minute,
		// Every call can do without an answer, and the breakers say when to ask again.
		DisableRetry: true,
		DisableCache: true,
	}
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.connect()
	if err := c.unreached.Load(); err != nil {
		c.log.Warn("redis can't be reached; this server goes on without it and tries again", "addresses", o.Addresses, "error", *err)
	}
	return c, nil
}

func (o Options) withDefaults() Options {
	if o.Prefix == "" {
		o.Prefix = "sarsen:"
	}
	if o.TTL == 0 {
		o.TTL = 24 * time.Hour
	}
	o.TTL = max(o.TTL, time.Second)
	if o.MaxBlob == 0 {
		o.MaxBlob = 8 << 10
	}
	if o.MaxRecord == 0 {
		o.MaxRecord = 64 << 10
	}
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Second
	}
	if o.Connections == 0 {
		o.Connections = 4
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// connect reaches Redis for the first time, unless that was tried a moment ago. After that the library keeps connections.
func (c *Client) connect() {
	if !c.connecting.TryLock() {
		return
	}
	defer c.connecting.Unlock()
	b := &c.parts[0].reads
	if c.client.Load() != nil || c.ctx.Err() != nil || !b.Allow() {
		return
	}
	client, err := rueidis.NewClient(c.dial)
	if err != nil {
		c.counts.failed.Add(1)
		b.Away()
		if len(c.o.Addresses) > 1 && c.o.Sentinel == "" && strings.Contains(err.Error(), "cluster support disabled") {
			err = fmt.Errorf("several addresses are those of a cluster or, with the name of a master, of sentinels; this is a server that stands alone: %w", err)
		}
		c.unreached.Store(&err)
		c.log.Debug("redis can't be reached", "error", err)
		return
	}
	b.Well()
	c.unreached.Store(nil)
	c.client.Store(&client)
	c.log.Info("redis is there", "addresses", c.o.Addresses)
}

// reached returns the library's client, or nil while there is none.
func (c *Client) reached() rueidis.Client {
	if p := c.client.Load(); p != nil {
		return *p
	}
	// Nobody waits for a server that was never there.
	if c.ctx.Err() == nil {
		c.group.Go(c.connect)
	}
	return nil
}

// renew lets go of the connections to a server that has become a replica: its name may stand for another one by now.
// Calls that are under way may use them until they end.
func (c *Client) renew(old rueidis.Client) {
	p := c.client.Load()
	if p == nil || *p != old || !c.client.CompareAndSwap(p, nil) {
		return
	}
	c.group.Go(func() {
		select {
		case <-time.After(2 * c.o.Timeout):
		case <-c.ctx.Done():
		}
		old.Close()
	})
}

// closeWithin is how long Close waits for what is on its way, though Timeout may be longer.
const closeWithin = time.Second

// Close ends the client. Calls that are under way must have ended.
func (c *Client) Close() {
	c.stop()
	defer time.AfterFunc(closeWithin, c.connections.cut).Stop()
	c.group.Wait()
	if p := c.client.Load(); p != nil {
		(*p).Close()
	}
}

type counts struct {
	underWay, pipelines, commands, bytesOut, bytesIn, hits, misses, served, announced, lost, failed, timeouts, refused, slow, corrupt,
	adopted, stale atomic.Int64
}

// Stats are what a Client did.
type Stats struct {
	Away bool `json:"away"` // Redis, or some of a cluster's slots, did not answer when last asked
	// Connections are open, UnderWay are pipelines that wait for an answer, and Waiting bytes wait to be announced.
	Connections int   `json:"connections"`
	UnderWay    int64 `json:"under_way"`
	Waiting     int   `json:"waiting_bytes"`

	Pipelines int64 `json:"pipelines"`
	Commands  int64 `json:"commands"`
	BytesOut  int64 `json:"bytes_out"` // keys and values, as they were sent
	BytesIn   int64 `json:"bytes_in"`  // values
	Hits      int64 `json:"hits"`      // entries that were there
	Misses    int64 `json:"misses"`    // and that were not
	Served    int64 `json:"served"`    // objects that were not read from the bucket
	Adopted   int64 `json:"adopted"`   // objects of others that the bucket has, as it was announced
	Stale     int64 `json:"stale"`     // and that it has no more
	Announced int64 `json:"announced"` // entries that were written
	Lost      int64 `json:"lost"`      // entries that were not
	Failed    int64 `json:"failed"`    // commands without an answer
	Timeouts  int64 `json:"timeouts"`  // of these, those that had none in time
	Refused   int64 `json:"refused"`   // commands that Redis answered with an error: out of memory, no permission
	Slow      int64 `json:"slow"`      // pipelines that took longer than a second
	Corrupt   int64 `json:"corrupt"`   // entries that did not verify
}

// Stats returns what the client did.
func (c *Client) Stats() Stats {
	n := &c.counts
	s := Stats{
		Pipelines: n.pipelines.Load(), Commands: n.commands.Load(), BytesOut: n.bytesOut.Load(), BytesIn: n.bytesIn.Load(),
		Hits: n.hits.Load(), Misses: n.misses.Load(), Served: n.served.Load(), Adopted: n.adopted.Load(), Stale: n.stale.Load(),
		Announced: n.announced.Load(), Lost: n.lost.Load(), Failed: n.failed.Load(), Refused: n.refused.Load(), Slow: n.slow.Load(),
		Corrupt: n.corrupt.Load(), Timeouts: n.timeouts.Load(), Connections: c.connections.count(), UnderWay: n.underWay.Load(),
	}
	c.write.mu.Lock()
	s.Waiting = c.write.bytes
	c.write.mu.Unlock()
	for i := range c.parts {
		s.Away = s.Away || c.parts[i].reads.IsAway() || c.parts[i].writes.IsAway()
	}
	return s
}
