package compiler

import (
	"context"
	"encoding/json"
	"errors"
	"net"

	"github.com/sarsen-build/sarsen/compiler/launch"
)

// Query is the kind of message that a command of the user sends to the daemon, and that it answers with.
const Query launch.Kind = 'a'

// A Question is what a command asks the daemon, as JSON.
type Question struct {
	Verb string // "stats", "zero", "clear", "explain", "drain", "stop"
	Path string // of explain: the source, absolute
}

// A Reply is what the daemon answers.
type Reply struct {
	Error     string            `json:",omitempty"`
	Counters  map[string]uint64 `json:",omitempty"`
	UsedBytes int64
	MaxBytes  int64
	Entries   int      // results that are kept, manifests included
	Waiting   int64    // uploads
	Sentences []string `json:",omitempty"`
}

// answer answers a command.
func (d *Daemon) answer(ctx context.Context, p *peer, body []byte) {
	var q Question
	reply := &Reply{}
	if err := json.Unmarshal(body, &q); err != nil {
		reply.Error = err.Error()
	} else if err := d.obey(ctx, q, reply); err != nil {
		reply.Error = err.Error()
	}
	b, err := json.Marshal(reply)
	if err != nil {
		return
	}
	p.send(Query, b)
	if q.Verb == "stop" || q.Verb == "clear" {
		d.end()
	}
}

func (d *Daemon) obey(ctx context.Context, q Question, reply *Reply) error {
	switch q.Verb {
	case "zero":
		d.stats.Zero()
	case "explain":
		reply.Sentences = d.past.explain(q.Path)
	case "drain":
		if far := d.entries.remote; far != nil {
			far.drain(ctx)
		}
	case "stats", "stop", "clear":
	default:
		return errors.New("unknown question " + q.Verb)
	}
	reply.Counters = d.stats.All()
	s := d.entries.ring.Stats()
	reply.UsedBytes, reply.MaxBytes, reply.Entries = s.UsedBytes, s.MaxBytes, s.Records
	if far := d.entries.remote; far != nil {
		reply.Waiting = far.open.Load()
	}
	return nil
}

// AskDaemon sends a question to the daemon behind conn.
func AskDaemon(conn *net.UnixConn, q Question) (*Reply, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	p := newPeer(conn)
	if err := p.send(Query, body); err != nil {
		return nil, err
	}
	kind, answer, err := p.receive(0)
	if err != nil {
		return nil, err
	}
	reply := &Reply{}
	if kind != Query {
		return nil, errMessage
	}
	if err := json.Unmarshal(answer, reply); err != nil {
		return nil, err
	}
	if reply.Error != "" {
		return nil, errors.New(reply.Error)
	}
	return reply, nil
}
