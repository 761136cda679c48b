package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// A Report is what Check found.
type Report struct {
	Cluster bool
	Took    time.Duration // one round trip, with a command
	Nodes   []Node
}

// A Node is one server. What it did not tell is zero.
type Node struct {
	Address   string
	Version   string
	MaxMemory int64  // bytes; 0 is no limit
	Policy    string // what goes when it is full: "noeviction" takes nothing new then
	Replica   bool
}

// Check tries all that a Client relies on, and asks the servers what they are. The error says what is refused.
func (c *Client) Check(ctx context.Context) (r Report, err error) {
	if err := c.unreached.Load(); err != nil {
		return r, *err
	}
	client := c.reached()
	if client == nil {
		return r, errors.New("it is not reached")
	}
	ctx, cancel := context.WithTimeout(ctx, 5*c.o.Timeout)
	defer cancel()
	r.Cluster = client.Mode() == rueidis.ClientModeCluster
	// Several keys lie on several nodes.
	for range parts {
		if r.Took, err = c.rehearse(ctx, client); err != nil {
			return r, err
		}
	}
	nodes := client.Nodes()
	for _, address := range slices.Sorted(maps.Keys(nodes)) {
		n := Node{Address: address}
		// Whom Redis does not let ask is no worse off.
		if text, err := nodes[address].Do(ctx, nodes[address].B().Info().Build()).ToString(); err == nil {
			n.read(text)
		}
		r.Nodes = append(r.Nodes, n)
	}
	return r, nil
}

// rehearse runs each command that a Client uses, on a key of its own, and looks at what it does.
func (c *Client) rehearse(ctx context.Context, client rueidis.Client) (took time.Duration, err error) {
	key := "check/" + rand.Text()
	for _, step := range []struct {
		what string
		cmd  command
		want string
	}{
		{"SET", command{set, key, "b\nbytes"}, "OK"},
		{"GET", command{verb: getWhole, key: key}, "b\nbytes"},
		{"EVAL of an older entry", command{setNewer, key, "a\n"}, "0"},
		{"GETRANGE", command{verb: getName, key: key}, "b\nbytes"},
		{"EVAL of a newer entry", command{setNewer, key, "c\n"}, "1"},
		{"EVAL of another's removal", command{drop, key, "b\n"}, "0"},
		{"EVAL of a removal", command{drop, key, "c\n"}, "1"},
	} {
		began := time.Now()
		got, err := text(client.Do(ctx, c.build(client, step.cmd)))
		if err != nil {
			return 0, fmt.Errorf("%s: %w", step.what, err)
		}
		if got != step.want {
			return 0, fmt.Errorf("%s gave %q, want %q", step.what, got, step.want)
		}
		took = time.Since(began)
	}
	return took, nil
}

func text(res rueidis.RedisResult) (string, error) {
	if n, err := res.AsInt64(); err == nil {
		return strconv.FormatInt(n, 10), nil
	}
	return res.ToString()
}

// read takes what INFO says.
func (n *Node) read(text string) {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "redis_version":
			n.Version = "Redis " + value
		case "valkey_version":
			n.Version = "Valkey " + value
		case "maxmemory":
			n.MaxMemory, _ = strconv.ParseInt(value, 10, 64)
		case "maxmemory_policy":
			n.Policy = value
		case "role":
			n.Replica = value == "slave"
		}
	}
}
