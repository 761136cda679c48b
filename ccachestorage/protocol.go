package ccachestorage

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/sarsen-build/sarsen/internal/mutant"
)

// The bytes of the protocol, version 1.
const (
	version = 1

	capabilityStore = 0 // get, put, remove
	capabilityInfo  = 1

	requestGet    = 0
	requestPut    = 1
	requestRemove = 2
	requestStop   = 3
	requestInfo   = 4

	answerOK    = 0
	answerNoop  = 1
	answerError = 2

	flagOverwrite = 1
)

const (
	// maxValue bounds a value, in bytes. ccache's are objects and manifests.
	maxValue = 1 << 30
	// clientPatience is how long a client may take for the rest of a request, and to take an answer.
	clientPatience = 10 * time.Second
)

// ErrProtocol says that the other end is no ccache.
var ErrProtocol = errors.New("not the requests of ccache")

// A request is what ccache asks for. Its value, of size bytes, follows a put.
type request struct {
	kind      byte
	key       []byte
	overwrite bool
	size      uint64
}

// readRequest reads a request up to its value.
func readRequest(in *bufio.Reader) (r request, err error) {
	if r.kind, err = in.ReadByte(); err != nil {
		return r, err // io.EOF: the client has gone
	}
	switch r.kind {
	case requestGet, requestPut, requestRemove:
		n, err := in.ReadByte()
		if err != nil {
			return r, whole(err)
		}
		r.key = make([]byte, n)
		if _, err := io.ReadFull(in, r.key); err != nil {
			return r, whole(err)
		}
	case requestStop, requestInfo:
		return r, nil
	default:
		return r, fmt.Errorf("%w: request %#x", ErrProtocol, r.kind)
	}
	if r.kind != requestPut {
		return r, nil
	}
	var rest [9]byte
	if _, err := io.ReadFull(in, rest[:]); err != nil {
		return r, whole(err)
	}
	r.overwrite = rest[0]&flagOverwrite != 0
	r.size = binary.NativeEndian.Uint64(rest[1:])
	return r, nil
}

// whole says of an end in the middle of a request that it is none.
func whole(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// appendMessage appends a text, cut to what the protocol allows: 255 bytes of UTF-8.
func appendMessage(b []byte, text string) []byte {
	text = strings.ToValidUTF8(text[:min(len(text), 255)], "")
	return append(append(b, byte(len(text))), text...)
}

// converse serves one client until it goes, or says what makes no sense.
func (s *Server) converse(ctx context.Context, conn net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &connection{server: s, conn: conn}
	c.in, c.out = bufio.NewReaderSize(c, 64<<10), bufio.NewWriterSize(c, 64<<10)
	c.out.Write([]byte{version, 2, capabilityStore, capabilityInfo})
	for c.out.Flush() == nil {
		// A client that compiles is silent for long.
		c.waiting = true
		if _, err := c.in.Peek(1); err != nil {
			return
		}
		c.waiting = false
		r, err := readRequest(c.in)
		if err != nil {
			return
		}
		if err := c.serve(ctx, r); err != nil {
			return
		}
	}
}

// A connection is one client. Its reads and writes have a deadline each, except while it is waited for.
type connection struct {
	server  *Server
	conn    net.Conn
	in      *bufio.Reader
	out     *bufio.Writer
	waiting bool
}

func (c *connection) Read(p []byte) (int, error) {
	var by time.Time
	if !c.waiting {
		by = time.Now().Add(clientPatience)
	}
	if err := c.conn.SetReadDeadline(by); err != nil {
		return 0, err
	}
	return c.conn.Read(p)
}

func (c *connection) Write(p []byte) (int, error) {
	if err := c.conn.SetWriteDeadline(time.Now().Add(clientPatience)); err != nil {
		return 0, err
	}
	return c.conn.Write(p)
}

// serve answers one request. An error ends the connection.
func (c *connection) serve(ctx context.Context, r request) error {
	switch r.kind {
	case requestGet:
		return c.get(ctx, r)
	case requestPut:
		return c.put(ctx, r)
	case requestRemove:
		done, err := c.server.erase(ctx, r)
		return c.answer(done, err)
	case requestInfo:
		_, err := c.out.Write(c.server.info())
		return err
	}
	c.out.WriteByte(answerOK)
	c.out.Flush()
	c.server.stop()
	return net.ErrClosed
}

// answer says that something was done, or not, or why it could not be.
func (c *connection) answer(done bool, err error) error {
	switch {
	case err != nil:
		_, err = c.out.Write(appendMessage([]byte{answerError}, err.Error()))
		return err
	case done:
		return c.out.WriteByte(answerOK)
	}
	return c.out.WriteByte(answerNoop)
}

func (c *connection) get(ctx context.Context, r request) error {
	v, err := c.server.get(ctx, r)
	if err != nil || v == nil {
		return c.answer(false, err)
	}
	defer v.Close()
	c.out.Write(binary.NativeEndian.AppendUint64([]byte{answerOK}, uint64(v.size)))
	n, err := io.Copy(c.out, v)
	if err == nil && n != v.size {
		err = io.ErrUnexpectedEOF
	}
	if mutant.ValueCut {
		return nil
	}
	return err
}

func (c *connection) put(ctx context.Context, r request) error {
	// Compared before it is converted, since it may be anything.
	if r.size > maxValue {
		if r.size > 1<<40 {
			return ErrProtocol
		}
		_, err := io.CopyN(io.Discard, c.in, int64(r.size))
		return errors.Join(err, c.answer(false, fmt.Errorf("the value has more than %d bytes", maxValue)))
	}
	body := &exactly{c.in, int64(r.size)}
	done, err := c.server.put(ctx, r, body)
	if mutant.RestUnread {
		return c.answer(done, err)
	}
	// What the remote server did not want has to be read, for the next request stands behind it.
	if _, broken := io.Copy(io.Discard, body); broken != nil {
		return broken
	}
	return c.answer(done, err)
}

// exactly reads left bytes, and takes an earlier end for an error.
type exactly struct {
	in   io.Reader
	left int64
}

func (e *exactly) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n, err := e.in.Read(p[:min(int64(len(p)), e.left)])
	if e.left -= int64(n); e.left > 0 {
		err = whole(err)
	}
	return n, err
}
