package compiler

import (
	"path/filepath"
	"sync"
)

// writers knows which outputs are being written. Two compiles that write one file at the same time leave either's
// there, so neither knows whose it reads.
type writers struct {
	mu      sync.Mutex
	current map[string]*place
}

// A place is an output that is being written.
type place struct {
	writers int  // that have not ended
	shared  bool // there has been more than one at a time since the first began
}

// places returns the absolute names of the outputs.
func (j *job) places() []string {
	var names []string
	for _, o := range j.command.Outputs {
		names = append(names, filepath.Clean(j.path(o.Path)))
	}
	return names
}

// begin notes that somebody writes the files, until end.
func (w *writers) begin(names []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range names {
		p := w.current[name]
		if p == nil {
			p = &place{}
			w.current[name] = p
		}
		p.writers++
		p.shared = p.shared || p.writers > 1
	}
}

func (w *writers) end(names []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range names {
		p := w.current[name]
		if p.writers--; p.writers == 0 {
			delete(w.current, name)
		}
	}
}

// alone reports whether nobody else has written the files since the caller began.
func (w *writers) alone(names []string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range names {
		if w.current[name].shared {
			return false
		}
	}
	return true
}
