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

// A wire carries messages of one JSON value after its length in four bytes. A descriptor may come with the length.
type wire struct {
	conn *net.UnixConn
	send sync.Mutex
}

func (w *wire) write(message any, file *os.File) error {
	body, err := json.Marshal(message)
	if err != nil {
		return err
	}
	var rights []byte
	if file != nil {
		rights = syscall.UnixRights(int(file.Fd()))
	}
	w.send.Lock()
	defer w.send.Unlock()
	if _, _, err := w.conn.WriteMsgUnix(binary.BigEndian.AppendUint32(nil, uint32(len(body))), rights, nil); err != nil {
		return err
	}
	_, err = w.conn.Write(body)
	return err
}

// read reads one message. The file is nil if none came with it.
func (w *wire) read(message any) (*os.File, error) {
	var head [4]byte
	var rights [64]byte
	var file *os.File
	for n := 0; n < len(head); {
		k, kr, _, _, err := w.conn.ReadMsgUnix(head[n:], rights[:])
		if err != nil {
			return nil, err
		}
		if k == 0 {
			return nil, io.EOF
		}
		if kr > 0 {
			if file, err = descriptor(rights[:kr]); err != nil {
				return nil, err
			}
		}
		n += k
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxMessage {
		return file, fmt.Errorf("message of %d bytes", n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(w.conn, body); err != nil {
		return file, err
	}
	return file, json.Unmarshal(body, message)
}

func descriptor(rights []byte) (*os.File, error) {
	messages, err := syscall.ParseSocketControlMessage(rights)
	if err != nil || len(messages) == 0 {
		return nil, err
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(fds) == 0 {
		return nil, err
	}
	for _, fd := range fds {
		syscall.CloseOnExec(fd)
	}
	return os.NewFile(uintptr(fds[0]), "root"), nil
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
