package sandbox

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// A message from the worker to the runner: Hello first, then any of the others.
type request struct {
	Hello  *Options `json:",omitempty"`
	Seq    uint64   `json:",omitempty"`
	Run    *Spec    `json:",omitempty"`
	Cancel bool     `json:",omitempty"`
}

// A message from the runner to the worker. The answer to Hello has Seq 0.
type answer struct {
	Seq     uint64
	Error   string   `json:",omitempty"`
	Refused bool     `json:",omitempty"` // the error is the Spec's fault
	Lacks   []string `json:",omitempty"`
	Owner   int      `json:",omitempty"`
	Outcome Outcome
	root    *os.Root // came with the message, as a descriptor
}

// maxMessage bounds a message: arguments and environment of any command that Linux can execute fit.
const maxMessage = 64 << 20

// A wire carries messages of one JSON value after its length in four bytes. Descriptors may come with the length.
type wire struct {
	conn *net.UnixConn
	send sync.Mutex
}

func (w *wire) write(message any, files ...*os.File) error {
	body, err := json.Marshal(message)
	if err != nil {
		return err
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = syscall.UnixRights(fds...)
	}
	w.send.Lock()
	defer w.send.Unlock()
	if _, _, err := w.conn.WriteMsgUnix(binary.BigEndian.AppendUint32(nil, uint32(len(body))), rights, nil); err != nil {
		return err
	}
	_, err = w.conn.Write(body)
	return err
}

// read reads one message, and what files came with it.
func (w *wire) read(message any) ([]*os.File, error) {
	var head [4]byte
	var rights [64]byte
	var files []*os.File
	for n := 0; n < len(head); {
		k, kr, _, _, err := w.conn.ReadMsgUnix(head[n:], rights[:])
		if err != nil {
			return nil, err
		}
		if k == 0 {
			return nil, io.EOF
		}
		if kr > 0 {
			if files, err = descriptors(rights[:kr]); err != nil {
				return nil, err
			}
		}
		n += k
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxMessage {
		return files, fmt.Errorf("message of %d bytes", n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(w.conn, body); err != nil {
		return files, err
	}
	return files, json.Unmarshal(body, message)
}

func descriptors(rights []byte) ([]*os.File, error) {
	messages, err := syscall.ParseSocketControlMessage(rights)
	if err != nil || len(messages) == 0 {
		return nil, err
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	files := make([]*os.File, len(fds))
	for i, fd := range fds {
		syscall.CloseOnExec(fd)
		files[i] = os.NewFile(uintptr(fd), "passed")
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// pair returns two ends of a socket.
func pair() (*net.UnixConn, *os.File, error) {
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "runner"), os.NewFile(uintptr(fds[1]), "worker")
	conn, err := net.FileConn(ours)
	_ = ours.Close()
	if err != nil {
		_ = theirs.Close()
		return nil, nil, err
	}
	return conn.(*net.UnixConn), theirs, nil
}
