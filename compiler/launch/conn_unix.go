//go:build unix

package launch

import (
	"errors"
	"os"
	"path"
	"slices"
	"syscall"
	"time"
)

var (
	errSilent = errors.New("the daemon does not answer")
	errNoTime = errors.New("another daemon is starting")
)

// A conn is a connection to the daemon. It uses blocking calls: the runtime's poller would cost as much
// as the answer.
type conn struct {
	fd  int
	buf []byte // received and not yet taken

	limit time.Duration // of the daemon's silence
}

// connect returns a connection to the daemon in dir, and starts one if there is none.
func connect(dir string) (*conn, error) {
	c, err := dial(SocketIn(dir))
	if err == nil || err != syscall.ENOENT && err != syscall.ECONNREFUSED {
		return c, err
	}
	if err := start(dir); err != nil && err != errNoTime {
		return nil, err
	}
	// Who lost the race to start one waits a moment for the winner's socket.
	for range 10 {
		if c, err = dial(SocketIn(dir)); err == nil {
			return c, nil
		}
		time.Sleep(Patience / 50)
	}
	return nil, err
}

// Connect returns a connection to the daemon in dir. If there is none, one is started if begin says so.
func Connect(dir string, begin bool) (*os.File, error) {
	open := connect
	if !begin {
		open = func(dir string) (*conn, error) { return dial(SocketIn(dir)) }
	}
	c, err := open(dir)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(c.fd), SocketIn(dir)), nil
}

func dial(path string) (*conn, error) {
	fd, err := socket()
	if err != nil {
		return nil, err
	}
	limit := syscall.NsecToTimeval(int64(patience()))
	syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &limit)
	syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &limit)
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: short(path)}); err != nil {
		syscall.Close(fd)
		return nil, err
	}
	return &conn{fd: fd, limit: patience()}, nil
}

func socket() (int, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	return fd, err
}

// short returns a name for a socket's path that fits into an address: 103 bytes on some systems.
func short(path string) string {
	if len(path) < 100 {
		return path
	}
	if cwd, err := syscall.Getwd(); err == nil {
		if name := relative(cwd, path); len(name) < 100 {
			return name
		}
	}
	return path
}

func (c *conn) close() { syscall.Close(c.fd) }

// send sends a message whole, or fails.
func (c *conn) send(k Kind, body []byte) error {
	if len(body) >= MaxMessage {
		return errMessage
	}
	b := Frame(k, body)
	for len(b) > 0 {
		n, err := syscall.Write(c.fd, b)
		if err == syscall.EINTR || err == syscall.EAGAIN && starved(c.fd) {
			continue
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// maxBusy is how long a daemon may say that it works itself. It bounds its own waits; this is for its mistakes.
const maxBusy = 15 * time.Second

// receive returns the next message that is not Busy.
func (c *conn) receive() (Kind, []byte, error) {
	for began := time.Now(); time.Since(began) < maxBusy; {
		if len(c.buf) >= 4 {
			size := int(lengthOf(c.buf))
			if size == 0 || size > MaxMessage {
				return 0, nil, errMessage
			}
			if len(c.buf) >= 4+size {
				kind, body := Kind(c.buf[4]), c.buf[5:4+size]
				c.buf = c.buf[4+size:]
				if kind == Far {
					began = time.Now()
					c.wait(max(FarPatience, patience()))
					continue
				}
				if kind == Busy {
					c.wait(patience())
					continue
				}
				return kind, body, nil
			}
		}
		if err := c.fill(); err != nil {
			return 0, nil, err
		}
	}
	return 0, nil, errSilent
}

// wait sets how long the daemon may be silent.
func (c *conn) wait(limit time.Duration) {
	if limit == c.limit {
		return
	}
	c.limit = limit
	value := syscall.NsecToTimeval(int64(limit))
	syscall.SetsockoptTimeval(c.fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &value)
}

// fill receives some bytes. It gives up after Patience, unless the daemon would work if it got a processor.
func (c *conn) fill() error {
	if cap(c.buf)-len(c.buf) < 4096 {
		c.buf = append(make([]byte, 0, max(8<<10, 2*len(c.buf))), c.buf...)
	}
	for tries := 0; ; {
		n, err := syscall.Read(c.fd, c.buf[len(c.buf):cap(c.buf)])
		switch {
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			if tries++; tries == maxStarved || !starved(c.fd) {
				return errSilent
			}
		case err != nil:
			return err
		case n == 0:
			return errSilent
		default:
			c.buf = c.buf[:len(c.buf)+n]
			return nil
		}
	}
}

// maxStarved is how often Patience may end for want of a processor.
const maxStarved = 20

// start starts a daemon unless somebody else is one or is starting one. The socket is made here, so that
// it is there when this returns; what is sent waits in it until the daemon has read its store.
func start(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(LockIn(dir), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return errNoTime
	}
	path := SocketIn(dir)
	if c, err := dial(path); err == nil { // it was started since
		c.close()
		return nil
	}
	os.Remove(path)
	fd, err := socket()
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	mask := syscall.Umask(0o077)
	err = syscall.Bind(fd, &syscall.SockaddrUnix{Name: short(path)})
	syscall.Umask(mask)
	if err == nil {
		err = syscall.Listen(fd, 1024)
	}
	if err != nil {
		return err
	}
	return spawn(dir, uintptr(fd), lock.Fd())
}

// spawn starts the daemon with the socket as file 3 and the lock as file 4, in a session of its own.
func spawn(dir string, socket, lock uintptr) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	log, err := os.OpenFile(path.Join(dir, "daemon.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	if info, err := log.Stat(); err == nil && info.Size() > 1<<20 {
		log.Truncate(0)
	}
	env := slices.DeleteFunc(os.Environ(), func(entry string) bool { return hasPrefix(entry, "TZ=") }) // this compile's
	_, err = syscall.ForkExec(self, []string{self, Program, "--daemon", dir}, &syscall.ProcAttr{
		Dir: dir, Env: env, Files: []uintptr{null.Fd(), log.Fd(), log.Fd(), socket, lock},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	return err
}
