package script

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/redisserver"
	"github.com/sarsen-build/sarsen/upstream"
)

// newSharing starts a fleet whose servers never list the bucket again, so that all they know of one another is what
// Redis says.
func newSharing(t *testing.T, settings string) (*fleet, *redisserver.Server) {
	t.Helper()
	node := redisserver.Start(t)
	f := newFleet(t, fmt.Sprintf("  refresh: never\n  collect: never\nredis:\n  address: %s\n%s", node.Address, settings))
	return f, node
}

// putResult stores a blob and a result that names it.
func (m *member) putResult(action, data []byte) error {
	if err := m.put(data); err != nil {
		return err
	}
	result, err := proto.Marshal(&repb.ActionResult{StdoutDigest: upstream.ToProto(digest.SHA256.Of(data))})
	if err != nil {
		return err
	}
	code, text, err := m.do(http.MethodPut, "/ac/"+digest.SHA256.Of(action).Hex(), result)
	if err == nil && code/100 != 2 {
		err = fmt.Errorf("put of a result: %d %s", code, text)
	}
	return err
}

// getResult reads a result, which must name data, and data.
func (m *member) getResult(action, data []byte) error {
	code, text, err := m.do(http.MethodGet, "/ac/"+digest.SHA256.Of(action).Hex(), nil)
	if err != nil || code != http.StatusOK {
		return fmt.Errorf("get of a result: %d %s, %w", code, text, err)
	}
	var result repb.ActionResult
	if err := proto.Unmarshal(text, &result); err != nil {
		return err
	}
	if want := digest.SHA256.Of(data).Hex(); result.GetStdoutDigest().GetHash() != want {
		return fmt.Errorf("the result names %s, want %s", result.GetStdoutDigest().GetHash(), want)
	}
	return m.get(data)
}

// metric returns the number that the metrics say.
func (m *member) metric(name string) (n float64, err error) {
	_, text, err := m.do(http.MethodGet, "/metrics", nil)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			_, err = fmt.Sscan(rest, &n)
			return n, err
		}
	}
	return 0, fmt.Errorf("no %s in the metrics", name)
}

// await waits until a metric is as it should be.
func (m *member) await(t *testing.T, name string, want float64) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		got, err := m.metric(name)
		if err == nil && got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is %v, %v, want %v", name, got, err, want)
		}
		// Somebody has to ask, or nobody finds out how Redis is.
		_ = m.put([]byte(time.Now().String()))
		_, _, _ = m.do(http.MethodGet, "/ac/"+digest.SHA256.Of([]byte(time.Now().String())).Hex(), nil)
	}
}

// TestRedis: two servers see one another's writes at once by Redis. One is killed; Redis stops, comes back empty, and
// is full; a server starts while it is away.
func TestRedis(t *testing.T) {
	t.Parallel() // it waits more than it works
	f, node := newSharing(t, "  timeout: 500ms\n")
	if out := f.mustRun("check", "redis", "--config", f.config); !strings.Contains(out, "one server; every command is answered") {
		t.Errorf("check redis: %s", out)
	}
	r := rand.NewChaCha8([32]byte{1})
	a, b := f.start("a"), f.start("b")
	n := 0
	share := func(when string, from, to *member) {
		t.Helper()
		for _, size := range []int{100, 20_000, 300_000} {
			n++
			action, data := fmt.Append(nil, "action ", n), random(r, size)
			if err := from.putResult(action, data); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			if err := to.getResult(action, data); err != nil {
				t.Errorf("%s: the other server: %v", when, err)
			}
		}
	}
	share("at first", a, b)
	share("the other way", b, a)
	// The namespaces of other build tools begin with a record that servers must agree on.
	for name, m := range map[string][2]*member{"one": {a, b}, "two": {b, a}} {
		data := random(r, 1000)
		code, _, err := m[0].do(http.MethodPut, "/gradle/"+name+"/0123456789abcdef", data)
		if err != nil || code/100 != 2 {
			t.Fatalf("put of Gradle: %d, %v", code, err)
		}
		if code, got, err := m[1].do(http.MethodGet, "/gradle/"+name+"/0123456789abcdef", nil); err != nil || code != http.StatusOK || !bytes.Equal(got, data) {
			t.Errorf("get of Gradle from the other server: %d, %d bytes, %v", code, len(got), err)
		}
	}
	for name, want := range map[string]float64{"sarsen_redis_adopted_total": 9, "sarsen_redis_failed_commands_total": 0, "sarsen_redis_away": 0} {
		if got, err := b.metric(name); err != nil || got != want {
			t.Errorf("%s is %v, %v, want %v", name, got, err, want)
		}
	}
	for _, name := range []string{"sarsen_redis_connections", `sarsen_redis_pipeline_seconds_count{for="read"}`, `sarsen_redis_pipeline_seconds_count{for="write"}`} {
		if got, err := b.metric(name); err != nil || got < 1 {
			t.Errorf("%s is %v, %v, want 1 at least", name, got, err)
		}
	}
	if _, status, err := b.do(http.MethodGet, "/status", nil); err != nil || !bytes.Contains(status, []byte(`"adopted": 9`)) {
		t.Errorf("got the status %s, %v, want 9 adopted", status, err)
	}
	if keys := node.Do("RANDOMKEY"); !strings.HasPrefix(keys, "sarsen:"+f.gate.Bucket+"/builds/:") {
		t.Errorf("a key is %q, want the bucket's name before it", keys)
	}

	node.Stop()
	alone := func(when string, m, other *member) {
		t.Helper()
		n++
		action, data := fmt.Append(nil, "action ", n), random(r, 5000)
		if err := m.putResult(action, data); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		if err := m.getResult(action, data); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		if err := other.get(data); err != nil { // it looks in the bucket
			t.Errorf("%s: the other server: %v", when, err)
		}
	}
	alone("redis is away", a, b)
	c := f.start("c")
	alone("started while redis is away", c, b)
	if said, _ := os.ReadFile(c.log); !strings.Contains(string(said), "redis can't be reached; this server goes on without it and tries again") || !strings.Contains(string(said), "connection refused") {
		t.Errorf("the log of a server that started while redis is away: %s", said)
	}
	node.Restart()
	for _, m := range []*member{a, b, c} {
		m.await(t, "sarsen_redis_away", 0)
	}
	share("redis is back, empty", a, c)
	node.Do("CONFIG", "SET", "maxmemory", "1")
	alone("redis is full", a, b)
	node.Do("CONFIG", "SET", "maxmemory", "0")
	a.await(t, "sarsen_redis_away", 0)
	share("redis has room again", a, b)
	a.kill()
	share("a server was killed", b, c)
	if err := b.get(random(rand.NewChaCha8([32]byte{1}), 100)); err != nil {
		t.Errorf("what a killed server stored first: %v", err)
	}
	if check := f.fsck(); check.Verified != check.Objects {
		t.Errorf("got %+v", check)
	}
}

// TestRedisWrong: what is wrong with Redis, or with its settings, is said in one sentence with what to do.
func TestRedisWrong(t *testing.T) {
	f, node := newSharing(t, "")
	plain, over, ca := redisserver.TLS(t)
	node.Do("ACL", "SETUSER", "reader", "on", ">pass", "~*", "+get", "+getrange", "+cluster|slots")
	node.Do("ACL", "SETUSER", "sarsen", "on", ">pass", "~sarsen:*", "+get", "+getrange", "+set", "+eval", "+del")
	node.Do("CONFIG", "SET", "requirepass", "secret")
	secrets := func(name, text string) string {
		path := filepath.Join(f.dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, test := range []struct {
		flags []string
		want  string
	}{
		{nil, "it refuses the user or the password; see redis.credentials"},
		{[]string{"--redis-credentials", secrets("guessed.yaml", "password: guessed")}, "it refuses the user or the password"},
		{[]string{"--redis-credentials", secrets("reader.yaml", "username: reader\npassword: pass")}, "the user may not do all that is needed"},
		{[]string{"--redis-credentials", secrets("typo.yaml", "passwort: guessed")}, "typo.yaml:1: passwort: unknown field; known are username, password"},
		{[]string{"--redis-credentials", filepath.Join(f.dir, "none.yaml")}, "can't read redis.credentials"},
		{[]string{"--redis", "127.0.0.1:1"}, "it can't be reached; see redis.address"},
		{[]string{"--redis", "redis.invalid:6379"}, "its host is not known here"},
		{[]string{"--redis", plain.Address, "--redis-tls", "on"}, "as one that does not speak TLS where redis.tls is on"},
		{[]string{"--redis", over}, "as one that speaks TLS where redis.tls is off"},
		{[]string{"--redis", over, "--redis-tls", "on"}, "name the CA's file in redis.ca"},
		{[]string{"--redis", over, "--redis-tls", "on", "--redis-ca", f.config}, "redis.ca can't be used"},
		{[]string{"--redis", plain.Address + "," + plain.Address}, "several addresses are those of a cluster"},
	} {
		out, err := f.run(append([]string{"check", "redis", "--config", f.config}, test.flags...)...)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "guessed\"") || strings.Count(err.Error(), "\n") > 1 {
			t.Errorf("%v: got %s, %v, want %q", test.flags, out, err, test.want)
		}
	}
	out, err := f.run("check", "redis", "--config", f.config, "--redis-credentials", secrets("good.yaml", "username: sarsen\npassword: pass"))
	if err != nil {
		t.Errorf("a user who may do what operating.md says: %s, %v", out, err)
	}
	if out, err := f.run("check", "redis", "--config", f.config, "--redis", over, "--redis-tls", "on", "--redis-ca", ca); err != nil {
		t.Errorf("over TLS: %s, %v", out, err)
	}
	t.Setenv("SARSEN_REDIS_PASSWORD", "secret")
	if out, err := f.run("check", "redis", "--config", f.config); err != nil || !strings.Contains(out, "no maxmemory") {
		t.Errorf("the password in the environment: %s, %v", out, err)
	}
}

// TestRedisCluster: a node of a cluster of three stops in the middle, and comes back empty. The others' entries are used
// on, nothing fails, and no answer is wrong.
func TestRedisCluster(t *testing.T) {
	t.Parallel() // it waits more than it works
	nodes := redisserver.Cluster(t)
	f := newFleet(t, fmt.Sprintf("  refresh: never\n  collect: never\nredis:\n  address: %s,%s\n  timeout: 500ms\n", nodes[0].Address, nodes[2].Address))
	if out := f.mustRun("check", "redis", "--config", f.config); !strings.Contains(out, "a cluster of 3 servers") {
		t.Errorf("check redis: %s", out)
	}
	r := rand.NewChaCha8([32]byte{1})
	a, b := f.start("a"), f.start("b")
	n := 0
	// share returns how many of 30 results of one server the other one has.
	share := func(when string, from, to *member, middle func()) (hits int) {
		t.Helper()
		for i := range 30 {
			if i == 15 {
				middle()
			}
			n++
			action, data := fmt.Append(nil, "action ", n), random(r, 2000)
			if err := from.putResult(action, data); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			if err := from.getResult(action, data); err != nil {
				t.Errorf("%s: %v", when, err)
			}
			err := to.getResult(action, data)
			if err == nil {
				hits++
			} else if !strings.Contains(err.Error(), "get of a result: 404") {
				t.Errorf("%s: the other server: %v", when, err)
			}
			if err := to.get(data); err != nil { // it looks in the bucket
				t.Errorf("%s: the other server: %v", when, err)
			}
		}
		t.Logf("%s: %d of 30 results are seen by the other server", when, hits)
		return hits
	}
	if got := share("at first", a, b, func() {}); got != 30 {
		t.Errorf("the other server has %d of 30 results", got)
	}
	if got := share("a node stops in the middle", a, b, nodes[1].Stop); got < 15 {
		t.Errorf("a node stopped in the middle: the other server has %d of 30 results, want those of before at least", got)
	}
	if got := share("a node is gone", b, a, func() {}); got == 0 {
		t.Error("no entry of the other nodes is used")
	}
	nodes[1].Restart()
	for _, m := range []*member{a, b} {
		m.await(t, "sarsen_redis_away", 0)
	}
	if got := share("it is back, empty", b, a, func() {}); got != 30 {
		t.Errorf("the other server has %d of 30 results", got)
	}
}
