package redis_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/redisserver"
	"github.com/sarsen-build/sarsen/redis"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// TestStale: what Redis names and the bucket has no more is missing, though Redis has its bytes.
func TestStale(t *testing.T) {
	for _, lookup := range []bool{false, true} {
		b := &bucket.Memory{}
		o := at(redisserver.Start(t))
		here, there := join(t, b, o, lookup), join(t, b, o, lookup)
		ds, data := some(1, 2, 100)
		putAll(t, here, ds, data)
		if err := here.Put(t.Context(), [32]byte{1}, []byte("value")); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Delete(t.Context(), append(b.Keys("c/"), b.Keys("a/")...)...); err != nil {
			t.Fatal(err)
		}
		if missing, err := there.Missing(t.Context(), digest.SetOf(ds[0])); err != nil || missing.Len() != 1 {
			t.Errorf("lookup %v: Missing = %d, %v, want 1", lookup, missing.Len(), err)
		}
		if _, err := there.Open(t.Context(), ds[1]); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("lookup %v: Open = %v, want ErrNotFound", lookup, err)
		}
		if _, errs := there.GetAll(t.Context(), ds); !errors.Is(errs[0], blob.ErrNotFound) {
			t.Errorf("lookup %v: GetAll = %v, want ErrNotFound", lookup, errs[0])
		}
		if _, err := there.Get(t.Context(), [32]byte{1}); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("lookup %v: Get = %v, want ErrNotFound", lookup, err)
		}
		if got := there.client.Stats().Stale; got < 3 {
			t.Errorf("lookup %v: %d stale entries, want at least 3", lookup, got)
		}
		putAll(t, there, ds, data) // and it can be stored again
		for i, d := range ds {
			if err := check(there, d, data[i]); err != nil {
				t.Errorf("lookup %v: %v", lookup, err)
			}
		}
	}
}

// seal returns an entry that names an object of d and holds other bytes in a frame of `s3` that verifies.
func seal(name string, d digest.Digest, data []byte) string {
	b := make([]byte, 72)
	copy(b, "SARSENS3")
	b[8], b[9] = 1, byte(d.Function)
	binary.LittleEndian.PutUint32(b[12:], 1<<20)
	binary.LittleEndian.PutUint64(b[16:], uint64(len(data)))
	copy(b[24:], d.Hash[:])
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	b = binary.LittleEndian.AppendUint64(b, xxh3.Hash(data))
	binary.LittleEndian.PutUint64(b[56:], uint64(len(data)))
	binary.LittleEndian.PutUint64(b[64:], xxh3.Hash(append(b[:64:64], b[72:]...)))
	b = append(b, data...)
	return name + "\n" + string(binary.BigEndian.AppendUint64(nil, xxh3.HashString(name+string(b)))) + string(b)
}

// TestForged: bytes that are not the blob's are never handed on, whatever they are, and the blob is read nevertheless.
func TestForged(t *testing.T) {
	node := redisserver.Start(t)
	ds, data := some(1, 1, 100)
	other, _ := some(2, 1, 100)
	d := ds[0]
	for _, lookup := range []bool{false, true} {
		for what, forge := range map[string]func(name, value string) string{
			"empty":           func(_, _ string) string { return "" },
			"noise":           func(_, _ string) string { return "noise" },
			"cut":             func(_, value string) string { return value[:len(value)-10] },
			"a bit":           func(_, value string) string { return value[:len(value)-1] + string(value[len(value)-1]^1) },
			"other bytes":     func(name, _ string) string { return seal(name, d, make([]byte, 100)) },
			"fewer bytes":     func(name, _ string) string { return seal(name, d, make([]byte, 50)) },
			"another's frame": func(name, _ string) string { return seal(name, other[0], make([]byte, 100)) },
			"another's name":  func(name, value string) string { return strings.ReplaceAll(value, name, "c/00/sha256-00-1.x-1") },
		} {
			b := &bucket.Memory{}
			o := at(node)
			o.Prefix = fmt.Sprintf("%s %v:", what, lookup)
			here := join(t, b, o, lookup)
			putAll(t, here, ds, data)
			name := b.Keys("c/")[0]
			key := o.Prefix + "c/" + d.Hex()[:2] + "/sha256-" + d.Hex()
			// The server that knows the blob, and one that learns of it.
			for who, s := range map[string]*server{"the writer": here, "another one": join(t, b, o, lookup)} {
				for how, read := range map[string]func(blob.Batcher, digest.Digest, []byte) error{"Open": checkOpen, "GetAll": checkAll} {
					node.Do("SET", key, seal(name, d, data[0]))
					node.Do("SET", key, forge(name, node.Do("GET", key)))
					if err := read(s, d, data[0]); err != nil {
						t.Errorf("%s, lookup %v: %s by %s: %v", what, lookup, how, who, err)
					}
				}
			}
		}
	}
}

// settle does something until Redis is as wanted.
func settle(t *testing.T, s *server, away bool) {
	t.Helper()
	for i := range 3000 {
		ds, data := some(9000+i, 1, 50)
		putAll(t, s, ds, data)
		if err := s.Put(t.Context(), [32]byte{200}, data[0]); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Missing(t.Context(), digest.SetOf(digest.SHA256.Of([]byte(strconv.Itoa(i))))); err != nil {
			t.Fatal(err)
		}
		if s.client.Stats().Away == away {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("Redis is not away=%v: %+v", away, s.client.Stats())
}

func do(words ...string) func(*redisserver.Server) {
	return func(s *redisserver.Server) { s.Do(words...) }
}

// TestTrouble: whatever becomes of Redis, all is read and written as without it, and it is taken up again.
func TestTrouble(t *testing.T) {
	for _, test := range []struct {
		what       string
		begin, end func(*redisserver.Server)
		reads      bool // it answers reads while that lasts
	}{
		{"down, and empty after that", (*redisserver.Server).Stop, (*redisserver.Server).Restart, false},
		{"hung", (*redisserver.Server).Hang, (*redisserver.Server).Resume, false},
		{"full", do("CONFIG", "SET", "maxmemory", "1"), do("CONFIG", "SET", "maxmemory", "0"), true},
		{"a replica", do("REPLICAOF", "127.0.0.1", "1"), do("REPLICAOF", "NO", "ONE"), false},
		{"emptied", do("FLUSHALL"), do("PING"), false},
	} {
		t.Run(test.what, func(t *testing.T) {
			t.Parallel()
			node := redisserver.Start(t)
			b := &bucket.Memory{}
			o := at(node)
			o.Prefix, o.Timeout = t.Name()+":", 200*time.Millisecond
			here, there := join(t, b, o, true), join(t, b, o, true)
			ds, data := some(1, 20, 300)
			putAll(t, here, ds, data)
			test.begin(node)
			if test.what != "emptied" {
				settle(t, here, true)
			}
			more, moreData := some(2, 20, 300)
			putAll(t, here, more, moreData)
			if err := here.Put(t.Context(), [32]byte{1}, []byte("meanwhile")); err != nil {
				t.Fatal(err)
			}
			all, allData := append(ds, more...), append(data, moreData...)
			for i, d := range all {
				if err := check(there, d, allData[i]); err != nil {
					t.Errorf("blob %d: %v", i, err)
				}
			}
			if err := there.inner.Refresh(t.Context()); err != nil { // the bucket is not asked for a record
				t.Fatal(err)
			}
			if r, err := there.Get(t.Context(), [32]byte{1}); err != nil || string(r.Value) != "meanwhile" {
				t.Errorf("the record is %q, %v", r.Value, err)
			}
			if test.reads && there.client.Stats().Served == 0 {
				t.Error("nothing was read from Redis, which answers reads")
			}
			test.end(node)
			settle(t, here, false)
			settle(t, there, false)
			last, lastData := some(3, 5, 300)
			putAll(t, here, last, lastData)
			served := there.client.Stats().Served
			for i, d := range last {
				if err := check(there, d, lastData[i]); err != nil {
					t.Errorf("blob %d after that: %v", i, err)
				}
			}
			if there.client.Stats().Served == served {
				t.Error("nothing is read from Redis after that")
			}
			t.Logf("%+v", there.client.Stats())
		})
	}
}

// TestNodeStops: a cluster's node that goes takes its own slots with it and no others.
func TestNodeStops(t *testing.T) {
	nodes := redisserver.Cluster(t)
	b := &bucket.Memory{}
	o := at(nodes[0], nodes[1], nodes[2])
	o.Timeout = time.Second // a busy machine answers in less
	here, there := join(t, b, o, true), join(t, b, o, true)
	for i, stop := range []struct {
		what string
		do   func()
	}{{"all are there", func() {}}, {"one hangs", nodes[1].Hang}, {"one is gone", nodes[1].Stop}} {
		stop.do()
		ds, data := some(10+i, 200, 200)
		putAll(t, here, ds, data)
		before := there.client.Stats()
		got, errs := there.GetAll(t.Context(), ds)
		for n, err := range errs {
			if err != nil || string(got[n]) != string(data[n]) {
				t.Fatalf("%s: blob %d: %v", stop.what, n, err)
			}
		}
		stats := there.client.Stats()
		served := stats.Served - before.Served
		t.Logf("%s: %d of 200 were served; %+v", stop.what, served, stats)
		if served < 80 || i == 0 && served < 200 {
			t.Errorf("%s: %d of 200 were read from Redis", stop.what, served)
		}
	}
}

// TestFailover: a replica takes a server's place, without what was written last, and the sentinels' clients follow.
func TestFailover(t *testing.T) {
	master := redisserver.Start(t)
	host, port, _ := strings.Cut(master.Address, ":")
	replica := redisserver.Start(t, "--replicaof", host+" "+port)
	for !strings.Contains(replica.Do("INFO", "replication"), "master_link_status:up") {
		time.Sleep(20 * time.Millisecond)
	}
	sentinel := redisserver.Sentinel(t, master)
	for !strings.Contains(sentinel.Do("INFO", "sentinel"), "slaves=1") {
		time.Sleep(20 * time.Millisecond)
	}
	o := at(sentinel)
	o.Sentinel, o.Timeout = "main", 500*time.Millisecond
	b := &bucket.Memory{}
	here, there := join(t, b, o, true), join(t, b, o, true)
	ds, data := some(1, 20, 100)
	putAll(t, here, ds[:10], data[:10])
	replica.Hang() // what comes now is lost
	putAll(t, here, ds[10:], data[10:])
	master.Stop()
	replica.Resume()
	for i, d := range ds {
		if err := check(there, d, data[i]); err != nil {
			t.Errorf("blob %d: %v", i, err)
		}
	}
	settle(t, here, false)
	settle(t, there, false)
	served := there.client.Stats().Served
	more, moreData := some(2, 5, 100)
	putAll(t, here, more, moreData)
	for i, d := range more {
		if err := check(there, d, moreData[i]); err != nil {
			t.Errorf("blob %d after that: %v", i, err)
		}
	}
	if there.client.Stats().Served == served {
		t.Errorf("nothing is read from the replica: %+v", there.client.Stats())
	}
}

// TestNever: a Redis that was never there, or that refuses, is gone without, and taken up when it comes.
func TestNever(t *testing.T) {
	node := redisserver.Start(t)
	node.Do("CONFIG", "SET", "requirepass", "secret")
	o := at(node)
	o.Password = "wrong"
	b := &bucket.Memory{}
	ds, data := some(1, 3, 100)
	s := join(t, b, o, true)
	putAll(t, s, ds, data)
	if err := check(s, ds[0], data[0]); err != nil {
		t.Errorf("with the wrong password: %v", err)
	}
	if !s.client.Stats().Away {
		t.Error("with the wrong password: it is not away")
	}
	node.Stop()
	o.Password = ""
	s = join(t, b, o, true)
	putAll(t, s, ds, data)
	node.Restart()
	settle(t, s, false)
	if got := s.client.Stats(); got.Announced == 0 {
		t.Errorf("after it came: %+v, want entries", got)
	}
}

// TestHung: a Redis that takes connections and answers nothing holds nobody up for ever, not even a start.
func TestHung(t *testing.T) {
	node := redisserver.Start(t)
	node.Hang()
	defer node.Resume()
	o := at(node)
	o.Timeout = 100 * time.Millisecond
	s := join(t, &bucket.Memory{}, o, true)
	ds, data := some(1, 3, 100)
	putAll(t, s, ds, data)
	if err := check(s, ds[0], data[0]); err != nil {
		t.Error(err)
	}
}

// TestSlow: a pipeline that takes longer than a second is counted and logged.
func TestSlow(t *testing.T) {
	node := redisserver.Start(t)
	var log bytes.Buffer
	o := at(node)
	o.Timeout, o.Log = 30*time.Second, slog.New(slog.NewTextHandler(&log, nil))
	s := join(t, &bucket.Memory{}, o, false)
	node.Do("CLIENT", "PAUSE", "1200", "ALL")
	ds, data := some(1, 1, 100)
	putAll(t, s, ds, data)
	if got := s.client.Stats(); got.Slow != 1 || got.Announced != 1 {
		t.Errorf("%d slow pipelines, %d entries, want one of each", got.Slow, got.Announced)
	}
	if !strings.Contains(log.String(), "level=WARN msg=\"redis was slow\"") {
		t.Errorf("the log says %q", log.String())
	}
}

// TestMoved: slots that go to another node are followed.
func TestMoved(t *testing.T) {
	nodes := redisserver.Cluster(t)
	b := &bucket.Memory{}
	o := at(nodes[0])
	here, there := join(t, b, o, false), join(t, b, o, false)
	ds, data := some(1, 1, 100)
	key := "sarsen:c/" + ds[0].Hex()[:2] + "/sha256-" + ds[0].Hex()
	slot := strconv.Itoa(int(redis.SlotOf(key)))
	// The clients asked where the slots are when they began.
	next := (int(redis.SlotOf(key))*3/16384 + 1) % 3
	id := nodes[next].Do("CLUSTER", "MYID")
	for i := range nodes {
		nodes[(next+i)%3].Do("CLUSTER", "SETSLOT", slot, "NODE", id)
	}
	putAll(t, here, ds, data)
	if missing, err := there.Missing(t.Context(), digest.SetOf(ds...)); err != nil || missing.Len() != 0 {
		t.Errorf("Missing = %d, %v, want none", missing.Len(), err)
	}
	if got := there.client.Stats(); got.Failed+got.Refused > 0 {
		t.Errorf("stats %+v, want nothing wrong", got)
	}
}

// TestOptions: what can't be meant is refused.
func TestOptions(t *testing.T) {
	for _, o := range []redis.Options{
		{}, {Addresses: []string{"host"}}, {Addresses: []string{"host:1"}, Prefix: "{a}"}, {Addresses: []string{"host:1"}, Timeout: -1},
	} {
		if c, err := redis.New(o); err == nil {
			c.Close()
			t.Errorf("New(%+v) = nil", o)
		}
	}
}

// TestSlots: keys are thought to be where the cluster has them.
func TestSlots(t *testing.T) {
	node := redisserver.Start(t, "--cluster-enabled", "yes")
	for i := range 50 {
		key := hex.EncodeToString(binary.AppendVarint(nil, int64(i*i*7919)))
		if got, want := strconv.Itoa(int(redis.SlotOf(key))), node.Do("CLUSTER", "KEYSLOT", key); got != want {
			t.Errorf("slot of %q = %s, want %s", key, got, want)
		}
	}
}

// TestMeddled: two servers write and read at once, while entries are lost, cut, mixed up and refused. What a server said yes to
// it reads, and nobody ever reads anything else.
func TestMeddled(t *testing.T) {
	node := redisserver.Start(t)
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SARSEN_SEED"); text != "" {
		seed, _ = strconv.ParseUint(text, 10, 64)
	}
	t.Logf("SARSEN_SEED=%d go test ./redis -run TestMeddled", seed)
	b := &bucket.Memory{}
	servers := []*server{join(t, b, at(node), true), join(t, b, at(node), true)}
	ds, data := some(1, 60, 200)
	var group sync.WaitGroup
	for n := range 6 {
		r := rand.New(rand.NewPCG(seed, uint64(n)))
		s := servers[n%2]
		group.Go(func() {
			for range 150 {
				if err := anything(t.Context(), s, r, ds, data); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	for r := rand.New(rand.NewPCG(seed, 99)); ; {
		select {
		case <-done:
			t.Logf("%+v", servers[0].client.Stats())
			return
		default:
		}
		key := func() string {
			d := ds[r.IntN(len(ds))]
			return "sarsen:c/" + d.Hex()[:2] + "/sha256-" + d.Hex()
		}
		one, other := key(), key()
		value, err := node.Try("GET", one)
		if err != nil || value == "$-1" {
			continue
		}
		switch r.IntN(8) {
		case 0:
			node.Do("FLUSHALL")
		case 1:
			if r.IntN(50) == 0 { // after two of these, nobody asks for a while
				node.Do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
			}
		case 2:
			node.Do("SET", other, value)
		case 3:
			node.Do("SET", one, value[:r.IntN(len(value))])
		case 4:
			name, _, _ := strings.Cut(value, "\n")
			node.Do("SET", one, seal(name, ds[0], data[1]))
		default:
			node.Do("DEL", one)
		}
	}
}

// anything makes one call on a server, and says what was wrong with the answer.
func anything(ctx context.Context, s *server, r *rand.Rand, ds []digest.Digest, data [][]byte) error {
	i := r.IntN(len(ds))
	d := ds[i]
	switch r.IntN(5) {
	case 0:
		if err := blob.Put(ctx, s, d, data[i]); err != nil {
			return err
		}
		return check(s, d, data[i])
	case 1:
		missing, err := s.Missing(ctx, digest.SetOf(ds[i:]...))
		if err != nil {
			return err
		}
		got, errs := s.GetAll(ctx, ds[i:])
		for n, d := range ds[i:] {
			if !missing.Has(d) && string(got[n]) != string(data[i+n]) {
				return fmt.Errorf("YesStands: blob %d: %d bytes, %v", i+n, len(got[n]), errs[n])
			}
		}
	case 2:
		if got, err := blob.Get(ctx, s, d); err == nil && string(got) != string(data[i]) {
			return fmt.Errorf("Immutable: blob %d has other bytes", i)
		}
	case 3:
		return s.Put(ctx, [32]byte{byte(i)}, data[i])
	case 4:
		if rec, err := s.Get(ctx, [32]byte{byte(i)}); err == nil && string(rec.Value) != string(data[i]) {
			return fmt.Errorf("record %d has other bytes", i)
		}
	}
	return nil
}
