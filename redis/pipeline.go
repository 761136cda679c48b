package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/sarsen-build/sarsen/internal/breaker"
)

// The bounds of one pipeline.
const (
	maxCommands = 5000
	maxBytes    = 8 << 20
)

// When a pipeline is logged as slow, and how.
const (
	slowWarn  = time.Second
	slowError = 5 * time.Second
)

// A command is one command on one key. It may be sent again without harm.
type command struct {
	verb  verb
	key   string
	value string // what is set, or the name that is dropped
}

type verb int

const (
	getWhole verb = iota
	getName       // the beginning of the value, where the name is
	set
	setNewer // of records: unless a greater name is there
	drop     // if it is that name
)

// A reply is what a command gave. ok says that Redis answered; a value that is not there is "".
type reply struct {
	value string
	ok    bool
}

// The scripts compare the names that values begin with. Those of one key have one length.
const (
	newerScript = `local old = redis.call('GETRANGE', KEYS[1], 0, string.find(ARGV[1], '\n', 1, true) - 2)
if old ~= '' and old > string.sub(ARGV[1], 1, #old) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1`
	dropScript = `if redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])`
)

func (c *Client) build(client rueidis.Client, cmd command) rueidis.Completed {
	key := c.o.Prefix + cmd.key
	switch cmd.verb {
	case getName:
		return client.B().Getrange().Key(key).Start(0).End(maxName).Build()
	case set:
		return client.B().Set().Key(key).Value(cmd.value).Px(c.o.TTL).Build()
	case setNewer:
		ttl := strconv.FormatInt(c.o.TTL.Milliseconds(), 10)
		return client.B().Eval().Script(newerScript).Numkeys(1).Key(key).Arg(cmd.value, ttl).Build()
	case drop:
		return client.B().Eval().Script(dropScript).Numkeys(1).Key(key).Arg(cmd.value).Build()
	}
	return client.B().Get().Key(key).Build()
}

// do sends commands, all of which read or all of which write, and returns what each gave. It never fails.
func (c *Client) do(ctx context.Context, cmds []command) []reply {
	replies := make([]reply, len(cmds))
	for at := 0; at < len(cmds); {
		end, size := at, 0
		for end < len(cmds) && end-at < maxCommands && size < maxBytes {
			size += len(cmds[end].key) + len(cmds[end].value)
			end++
		}
		c.pipeline(ctx, cmds[at:end], replies[at:end])
		c.counts.bytesOut.Add(int64(size))
		at = end
	}
	return replies
}

// pipeline sends commands in one round trip, to each node of a cluster those on its slots.
func (c *Client) pipeline(ctx context.Context, cmds []command, replies []reply) {
	client := c.reached()
	if client == nil || ctx.Err() != nil {
		return
	}
	var asked [parts]outcome
	places := c.allowed(client, cmds, &asked)
	if len(places) == 0 {
		return
	}
	// The caller's end says nothing about Redis, and Timeout bounds how long it goes unseen.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.o.Timeout)
	defer cancel()
	c.counts.underWay.Add(1)
	defer c.counts.underWay.Add(-1)
	began := time.Now()
	left := places
	// A connection that was closed while nobody looked is no reason to give up: it is made anew at once.
	for try := 0; try < 2 && len(left) > 0 && ctx.Err() == nil; try++ {
		left = c.send(ctx, client, cmds, left, replies, &asked)
	}
	c.counts.failed.Add(int64(len(left)))
	if ctx.Err() != nil {
		c.counts.timeouts.Add(int64(len(left)))
	}
	for _, i := range left {
		asked[c.partOf(client, cmds[i])].failed = true
	}
	took := time.Since(began)
	c.conclude(client, cmds[0].verb, len(places), took, &asked)
	if c.o.Took != nil {
		c.o.Took(cmds[0].verb <= getName, took)
	}
	c.logSlow(cmds[0].verb, len(places), took)
}

// An outcome is how the commands of one pipeline on one part's slots went.
type outcome struct {
	known, allowed bool
	failed         bool  // one had no answer
	err            error // that Redis answered with, if it makes it useless
}

// allowed returns the places of the commands that are worth sending.
func (c *Client) allowed(client rueidis.Client, cmds []command, asked *[parts]outcome) []int {
	places := make([]int, 0, len(cmds))
	for i, cmd := range cmds {
		n := c.partOf(client, cmd)
		if o := &asked[n]; !o.known {
			o.known, o.allowed = true, c.breakerOf(n, cmd.verb).Allow()
		}
		if asked[n].allowed {
			places = append(places, i)
		}
	}
	return places
}

// send sends the commands at places and returns those that had no answer.
func (c *Client) send(ctx context.Context, client rueidis.Client, cmds []command, places []int, replies []reply, asked *[parts]outcome) (left []int) {
	built := make(rueidis.Commands, len(places))
	for n, i := range places {
		built[n] = c.build(client, cmds[i])
	}
	c.counts.pipelines.Add(1)
	c.counts.commands.Add(int64(len(places)))
	for n, res := range client.DoMulti(ctx, built...) {
		i := places[n]
		err := res.Error()
		var refused *rueidis.RedisError
		switch {
		case err == nil && cmds[i].verb <= getName:
			value, err := res.ToString()
			replies[i] = reply{value, err == nil}
			c.counts.bytesIn.Add(int64(len(value)))
		case err == nil || rueidis.IsRedisNil(err):
			replies[i].ok = true
		case errors.As(err, &refused) && strings.HasPrefix(refused.Error(), "WRONGTYPE"):
			// Somebody else's key, which says nothing about Redis.
			replies[i].ok = true
			c.counts.corrupt.Add(1)
		case errors.As(err, &refused):
			c.counts.refused.Add(1)
			asked[c.partOf(client, cmds[i])].err = err
		default:
			left = append(left, i)
		}
	}
	return left
}

// conclude tells the breakers how it went.
func (c *Client) conclude(client rueidis.Client, v verb, commands int, took time.Duration, asked *[parts]outcome) {
	// What takes longer is no gain over the bucket.
	limit := min(c.o.Timeout/4, 200*time.Millisecond) + time.Duration(commands)*100*time.Microsecond
	for n := range asked {
		o := &asked[n]
		if !o.allowed {
			continue
		}
		what := []any{"reads", v <= getName}
		if client.Mode() == rueidis.ClientModeCluster {
			what = append(what, "slots", fmt.Sprintf("%d-%d", n*slots/parts, (n+1)*slots/parts-1))
		}
		b := c.breakerOf(n, v)
		was := b.IsAway()
		switch {
		case o.err != nil:
			if b.Away() {
				c.log.Warn("redis refuses commands; this server goes on without it", append(what, "error", o.err)...)
			}
			if strings.HasPrefix(o.err.Error(), "READONLY") && client.Mode() == rueidis.ClientModeStandalone {
				c.renew(client)
			}
		case o.failed:
			if b.Away() {
				c.log.Warn("redis does not answer; this server goes on without it", append(what, "after", took)...)
			}
		case b.Answered(took, limit):
			c.log.Warn("redis answers slowly; this server goes on without it", append(what, "after", took)...)
		case was && !b.IsAway():
			c.log.Info("redis answers again", what...)
		}
	}
}

func (c *Client) logSlow(v verb, commands int, took time.Duration) {
	if took < slowWarn {
		return
	}
	c.counts.slow.Add(1)
	level := slog.LevelWarn
	if took >= slowError {
		level = slog.LevelError
	}
	c.log.Log(c.ctx, level, "redis was slow", "reads", v <= getName, "commands", commands, "took", took)
}

func (c *Client) breakerOf(n int, v verb) *breaker.Breaker {
	if v <= getName {
		return &c.parts[n].reads
	}
	return &c.parts[n].writes
}

// partOf returns which part a command's slot is in.
func (c *Client) partOf(client rueidis.Client, cmd command) int {
	if client.Mode() != rueidis.ClientModeCluster {
		return 0
	}
	return int(slotOf(c.o.Prefix+cmd.key)) * parts / slots
}

// slots is how many slots a cluster has.
const slots = 1 << 14

// slotOf returns a key's slot: the CRC-16 of XMODEM. Keys have no braces.
func slotOf(key string) uint16 {
	var crc uint16
	for i := range len(key) {
		crc = crc<<8 ^ crcTable[byte(crc>>8)^key[i]]
	}
	return crc % slots
}

var crcTable = func() (table [256]uint16) {
	for i := range table {
		crc := uint16(i) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
		table[i] = crc
	}
	return table
}()

// get returns what Redis holds of the lookups, in one round trip. What is damaged, what is not there, and what Redis did not
// say, is the zero entry.
func (c *Client) get(ctx context.Context, lookups []string, whole bool) []entry {
	v := getName
	if whole {
		v = getWhole
	}
	cmds := make([]command, len(lookups))
	for i, l := range lookups {
		cmds[i] = command{verb: v, key: l}
	}
	entries := make([]entry, len(lookups))
	for i, r := range c.do(ctx, cmds) {
		if !r.ok {
			continue
		}
		if r.value == "" {
			c.counts.misses.Add(1)
			continue
		}
		e, err := decodeEntry(lookups[i], r.value, whole)
		if err != nil {
			c.counts.corrupt.Add(1)
			c.log.Warn("an entry in redis is damaged", "key", c.o.Prefix+lookups[i], "error", err)
			continue
		}
		c.counts.hits.Add(1)
		entries[i] = e
	}
	return entries
}
