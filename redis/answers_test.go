package redis_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/redisserver"
	"github.com/sarsen-build/sarsen/internal/tlsfiles"
	"github.com/sarsen-build/sarsen/redis"
	"github.com/sarsen-build/sarsen/s3"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

func keyOf(d digest.Digest) string { return "sarsen:c/" + d.Hex()[:2] + "/sha256-" + d.Hex() }

// TestWrongType: a key that somebody else made something else of is a miss, and the others are read and written on.
func TestWrongType(t *testing.T) {
	node := redisserver.Start(t)
	b := &bucket.Memory{}
	here, there := join(t, b, at(node), true), join(t, b, at(node), true)
	ds, data := some(1, 10, 100)
	node.Do("RPUSH", keyOf(ds[3]), "somebody's")
	recordKey := "sarsen:a/07/07" + strings.Repeat("00", 31)
	node.Do("RPUSH", recordKey, "somebody's")
	putAll(t, here, ds[:3], data[:3])
	if err := here.Put(t.Context(), [32]byte{7}, []byte("value")); err != nil {
		t.Fatal(err)
	}
	node.Do("DEL", keyOf(ds[0]))
	node.Do("RPUSH", keyOf(ds[0]), "somebody's")
	putAll(t, here, ds[3:], data[3:])
	for i, d := range ds {
		if err := check(there, d, data[i]); err != nil {
			t.Errorf("blob %d: %v", i, err)
		}
	}
	for who, s := range map[string]*server{"the writer": here, "another": there} {
		stats := s.client.Stats()
		if stats.Away || stats.Refused > 0 || stats.Corrupt == 0 {
			t.Errorf("%s: stats %+v, want nothing refused, and something corrupt", who, stats)
		}
	}
}

// TestAcknowledged: when a put is acknowledged, Redis has its entry, though it is slow.
func TestAcknowledged(t *testing.T) {
	node := redisserver.Start(t)
	o := at(node)
	o.Timeout = time.Minute
	s := join(t, &bucket.Memory{}, o, false)
	ds, data := some(1, 1, 100)
	for what, put := range map[string]func() error{
		keyOf(ds[0]): func() error { return s.PutAll(t.Context(), ds, data)[0] },
		"sarsen:a/07/07" + strings.Repeat("00", 31): func() error { return s.Put(t.Context(), [32]byte{7}, []byte("value")) },
	} {
		node.Do("CLIENT", "PAUSE", "300", "WRITE")
		if err := put(); err != nil {
			t.Fatal(err)
		}
		if got := node.Do("EXISTS", what); got != "1" {
			t.Errorf("%s is acknowledged, and not announced", what)
		}
		node.Do("CLIENT", "UNPAUSE")
	}
}

// TestCloseHung: a Redis that does not answer holds no stop up, though it may take long to answer.
func TestCloseHung(t *testing.T) {
	node := redisserver.Start(t)
	b := &bucket.Memory{}
	o := at(node)
	writer := join(t, b, o, true)
	ds, data := some(1, 1, 100)
	putAll(t, writer, ds, data)
	node.Do("FLUSHALL")
	o.Timeout = time.Hour
	client, err := redis.New(o)
	if err != nil {
		t.Fatal(err)
	}
	inner, err := s3.Open(t.Context(), client.Bucket(b), s3.Options{})
	if err != nil {
		t.Fatal(err)
	}
	node.Do("CLIENT", "PAUSE", "3600000", "WRITE")
	if err := checkOpen(client.Store(inner), ds[0], data[0]); err != nil { // it is announced again, and nobody waits for that
		t.Error(err)
	}
	if err := inner.Close(); err != nil {
		t.Error(err)
	}
	closed := make(chan struct{})
	go func() {
		client.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(time.Minute):
		t.Error("Close waits")
	}
	node.Do("CLIENT", "UNPAUSE")
}

// TestLoading: a server that loads what it saved refuses everything meanwhile.
func TestLoading(t *testing.T) {
	t.Parallel()
	node := redisserver.Start(t, "--enable-debug-command", "yes", "--loading-process-events-interval-bytes", "1024")
	b := &bucket.Memory{}
	here, there := join(t, b, at(node), true), join(t, b, at(node), true)
	ds, data := some(1, 400, 300)
	putAll(t, here, ds, data)
	node.Do("CONFIG", "SET", "key-load-delay", "5000") // microseconds
	loaded := make(chan string, 1)
	go func() {
		answer, _ := node.Try("DEBUG", "RELOAD")
		loaded <- answer
	}()
	for {
		answer, err := node.Try("GET", "x")
		if err == nil && strings.HasPrefix(answer, "-LOADING") {
			break
		}
		select {
		case answer := <-loaded:
			t.Fatalf("it never said that it loads; the reload ended with %q", answer)
		default:
		}
	}
	more, moreData := some(2, 20, 300)
	putAll(t, here, more, moreData)
	for i, d := range append(ds[:20:20], more...) {
		if err := check(there, d, append(data[:20:20], moreData...)[i]); err != nil {
			t.Errorf("blob %d: %v", i, err)
		}
	}
	if here.client.Stats().Refused+there.client.Stats().Refused == 0 {
		t.Errorf("nothing was refused: %+v", there.client.Stats())
	}
	<-loaded
	settle(t, here, false)
	settle(t, there, false)
	served := there.client.Stats().Served
	if err := check(there, ds[30], data[30]); err != nil || there.client.Stats().Served == served {
		t.Errorf("after that: %v, %+v", err, there.client.Stats())
	}
}

// TestAsk: a slot that is on its way to another node is followed, for entries that have moved and that have not.
func TestAsk(t *testing.T) {
	nodes := redisserver.Cluster(t)
	b := &bucket.Memory{}
	here, there := join(t, b, at(nodes[0]), false), join(t, b, at(nodes[0]), false)
	ds, data := some(1, 1, 100)
	key := keyOf(ds[0])
	slot := int(redis.SlotOf(key))
	from := 0
	for (from+1)*16384/3-1 < slot {
		from++
	}
	to := (from + 1) % 3
	nodes[to].Do("CLUSTER", "SETSLOT", strconv.Itoa(slot), "IMPORTING", nodes[from].Do("CLUSTER", "MYID"))
	nodes[from].Do("CLUSTER", "SETSLOT", strconv.Itoa(slot), "MIGRATING", nodes[to].Do("CLUSTER", "MYID"))
	putAll(t, here, ds, data)
	if missing, err := there.Missing(t.Context(), digest.SetOf(ds...)); err != nil || missing.Len() != 0 {
		t.Errorf("Missing = %d, %v, want none", missing.Len(), err)
	}
	if err := check(there, ds[0], data[0]); err != nil {
		t.Error(err)
	}
	for who, s := range map[string]*server{"the writer": here, "another": there} {
		if got := s.client.Stats(); got.Failed+got.Refused+got.Lost > 0 {
			t.Errorf("%s: stats %+v, want nothing wrong", who, got)
		}
	}
}

// A name is an address that stands for one server and then for another.
type name struct {
	net.Listener
	server atomic.Pointer[string]
}

func newName(t *testing.T, s *redisserver.Server) *name {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &name{Listener: l}
	n.server.Store(&s.Address)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := net.Dial("tcp", *n.server.Load())
				if err != nil {
					return
				}
				defer out.Close()
				go func() { _, _ = io.Copy(out, in); out.Close() }()
				_, _ = io.Copy(in, out)
			}()
		}
	}()
	return n
}

// TestDemoted: a server becomes a replica and keeps its connections, and its name stands for the new master.
func TestDemoted(t *testing.T) {
	t.Parallel()
	old := redisserver.Start(t)
	master := redisserver.Start(t)
	n := newName(t, old)
	o := redis.Options{Addresses: []string{n.Addr().String()}, Timeout: time.Second, Connections: 1} // more are made when they are needed, and go to the new one
	b := &bucket.Memory{}
	here, there := join(t, b, o, true), join(t, b, o, true)
	ds, data := some(1, 3, 100)
	putAll(t, here, ds, data)
	host, port, _ := strings.Cut(master.Address, ":")
	n.server.Store(&master.Address)
	old.Do("REPLICAOF", host, port)
	settle(t, here, true)
	settle(t, here, false)
	settle(t, there, false)
	more, moreData := some(2, 5, 100)
	putAll(t, here, more, moreData)
	for i, d := range more {
		if got := master.Do("EXISTS", keyOf(d)); got != "1" {
			t.Errorf("entry %d in the new master: %s", i, got)
		}
		if err := check(there, d, moreData[i]); err != nil {
			t.Errorf("blob %d: %v", i, err)
		}
	}
}

// TestOverTLS: with the authority's certificate it is reached, with another one or none it is gone without.
func TestOverTLS(t *testing.T) {
	_, address, ca := redisserver.TLS(t)
	_, _, other := redisserver.TLS(t)
	for file, want := range map[string]bool{ca: true, other: false, "": false} {
		over, err := tlsfiles.Client(file, "", "")
		if err != nil {
			t.Fatal(err)
		}
		s := join(t, &bucket.Memory{}, redis.Options{Addresses: []string{address}, TLS: over}, true)
		ds, data := some(1, 3, 100)
		putAll(t, s, ds, data)
		if err := check(s, ds[0], data[0]); err != nil {
			t.Error(err)
		}
		if got := s.client.Stats().Announced == 3; got != want {
			t.Errorf("with %q: reached %v, want %v: %+v", file, got, want, s.client.Stats())
		}
	}
}

// TestCheck: a user who has the permissions that the documents name is enough, alone and in a cluster, and each that is
// taken away is found.
func TestCheck(t *testing.T) {
	one := redisserver.Start(t)
	three := redisserver.Cluster(t)
	for what, nodes := range map[string][]*redisserver.Server{"alone": {one}, "cluster": three[:]} {
		all := []string{"+get", "+getrange", "+set", "+eval", "+del", "+cluster|slots", "+cluster|shards"}
		for without := -1; without < len(all); without++ {
			user := fmt.Sprint("without", without)
			rules := append([]string{"ACL", "SETUSER", user, "on", ">pass", "~sarsen:*"}, all...)
			if without >= 0 {
				rules = append(rules, "-"+all[without][1:])
			}
			if without >= 5 && (what == "alone" || all[without] == "+cluster|shards") {
				continue // asked in clusters only, and of some versions
			}
			for _, n := range nodes {
				n.Do(rules...)
			}
			o := at(nodes[0])
			o.Username, o.Password = user, "pass"
			client, err := redis.New(o)
			if err != nil {
				t.Fatal(err)
			}
			report, err := client.Check(context.Background())
			client.Close()
			if (err == nil) != (without < 0) {
				t.Errorf("%s, %s: Check = %+v, %v", what, user, report, err)
			}
			if without < 0 && (len(report.Nodes) != len(nodes) || report.Cluster != (len(nodes) > 1) || report.Took <= 0) {
				t.Errorf("%s: Check = %+v", what, report)
			}
		}
	}
}
