package stage

import (
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// A keeper writes down what the cache learns.
type keeper struct {
	cache *cache
	log   *slog.Logger
	lock  io.Closer
	dir   vfs.Dir
	limit int64 // bytes of the file, above which it is written anew

	file vfs.File // the keeper's own
	end  int64
	// at is where the messages lie in file.
	at map[digest.Digest]int64

	mu      sync.Mutex
	pending []message
	wake    chan struct{}
	stopped bool
	done    chan struct{}
}

// A message is a directory message.
type message struct {
	digest digest.Digest
	data   []byte
}

// openKeeper reads the file in dir into the cache, and begins to write there.
func openKeeper(fsys vfs.LinkFS, dir string, c *cache, log *slog.Logger) (*keeper, error) {
	if err := fsys.MakeDir(dir); err != nil {
		return nil, err
	}
	lock, err := fsys.Lock(dir)
	if err != nil {
		return nil, err
	}
	d, err := fsys.OpenDir(dir)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	k := &keeper{
		cache: c, log: log, lock: lock, dir: d,
		limit: 2*c.maxBytes + 1<<20,
		at:    map[digest.Digest]int64{},
		wake:  make(chan struct{}, 1),
		done:  make(chan struct{}),
	}
	err = d.RemoveAll(newName)
	if err == nil {
		err = k.load(fsys, filepath.Join(dir, logName))
	}
	if err != nil {
		return nil, errors.Join(err, d.Close(), lock.Close())
	}
	go k.run()
	return k, nil
}

// add leaves messages to be written. Their data must not change.
func (k *keeper) add(messages []message) {
	if len(messages) == 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pending = append(k.pending, messages...)
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// close writes what is left.
func (k *keeper) close() error {
	k.mu.Lock()
	first := !k.stopped
	k.stopped = true
	k.mu.Unlock()
	if !first {
		return nil
	}
	select {
	case k.wake <- struct{}{}:
	default:
	}
	<-k.done
	return errors.Join(k.file.Close(), k.dir.Close(), k.lock.Close())
}

// run is the keeper. What can't be written is only not known to the next process.
func (k *keeper) run() {
	defer close(k.done)
	for range k.wake {
		k.mu.Lock()
		messages, stopped := k.pending, k.stopped
		k.pending = nil
		k.mu.Unlock()
		err := k.write(messages)
		if err == nil && k.end > k.limit {
			err = k.renew()
		}
		if err != nil {
			k.log.Warn("the directory cache can't be written", "error", err)
		}
		if stopped {
			return
		}
	}
}
