package compiler

import (
	"path/filepath"
	"slices"
	"sync"

	"github.com/sarsen-build/sarsen/internal/mutant"
)

// writers knows which outputs are being written. Two compiles that write one file at the same time leave either's
// there, so neither knows whose it reads.
type writers struct {
	mu      sync.Mutex
	current map[string]*place
}

// A place is an output that is being written.
type place struct {
	writers []*job // that have not ended
	shared  bool   // there has been more than one at a time since the first began
}

// writes reports whether j may still write its outputs. A compiler may outlive its launcher. A hit does not: its
// outputs are renamed by the launcher, which says nothing more and goes.
func (j *job) writes() bool { return !j.hit || j.peer.there() }

// places returns the absolute names of the outputs.
func (j *job) places() []string {
	var names []string
	for _, o := range j.command.Outputs {
		names = append(names, filepath.Clean(j.path(o.Path)))
	}
	return names
}

// begin notes that j writes its outputs, until end.
func (w *writers) begin(j *job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range j.places() {
		p := w.current[name]
		if p == nil {
			p = &place{}
			w.current[name] = p
		}
		p.shared = slices.ContainsFunc(p.writers, (*job).writes)
		p.writers = append(p.writers, j)
	}
}

// end may be called more than once.
func (w *writers) end(j *job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range j.places() {
		p := w.current[name]
		if p == nil {
			continue
		}
		p.writers = slices.DeleteFunc(p.writers, func(o *job) bool { return o == j })
		if len(p.writers) == 0 {
			delete(w.current, name)
		}
	}
}

// alone reports whether nobody else has written the outputs of j since it began.
func (w *writers) alone(j *job) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range j.places() {
		if w.current[name].shared && !mutant.WritersIgnored {
			return false
		}
	}
	return true
}
