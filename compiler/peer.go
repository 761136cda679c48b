package compiler

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/sarsen-build/sarsen/compiler/launch"
)

const (
	// helloTime is how long a connection may be silent before it has asked anything.
	helloTime = 10 * time.Second
	// heartbeat is how often a launcher is told that its answer is being made: well within launch.Patience.
	heartbeat = 25 * time.Millisecond
	// sendTime bounds the sending of one message.
	sendTime = 10 * time.Second
)

var errMessage = errors.New("malformed message")

// A peer is a launcher at the other end of a connection.
type peer struct {
	conn  *net.UnixConn
	group bool // it is in this process's group, to which files belong that either makes
	r     *bufio.Reader

	mu sync.Mutex // held while a message is sent
}

func newPeer(conn *net.UnixConn) *peer {
	return &peer{conn: conn, group: sameGroup(conn), r: bufio.NewReaderSize(conn, 16<<10)}
}

// receive returns the next message; 0 waits until the launcher has gone.
func (p *peer) receive(limit time.Duration) (launch.Kind, []byte, error) {
	deadline := time.Time{}
	if limit > 0 {
		deadline = time.Now().Add(limit)
	}
	p.conn.SetReadDeadline(deadline)
	var head [5]byte
	if _, err := io.ReadFull(p.r, head[:]); err != nil {
		return 0, nil, err
	}
	size := binary.LittleEndian.Uint32(head[:])
	if size == 0 || size > launch.MaxMessage {
		return 0, nil, errMessage
	}
	body := make([]byte, size-1)
	_, err := io.ReadFull(p.r, body)
	return launch.Kind(head[4]), body, err
}

// send sends a message.
func (p *peer) send(k launch.Kind, body []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conn.SetWriteDeadline(time.Now().Add(sendTime))
	_, err := p.conn.Write(launch.Frame(k, body))
	return err
}

// work tells the launcher again and again that its answer is being made, until rest is called.
func (p *peer) work() (rest func()) {
	done := make(chan struct{})
	var timer *time.Timer
	var mu sync.Mutex
	mu.Lock()
	timer = time.AfterFunc(heartbeat, func() {
		if p.send(launch.Busy, nil) != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		select {
		case <-done:
		default:
			timer.Reset(heartbeat)
		}
	})
	mu.Unlock()
	return func() {
		mu.Lock()
		defer mu.Unlock()
		close(done)
		timer.Stop()
	}
}
