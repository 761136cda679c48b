package compiler

import (
	"os"
	"path/filepath"

	"github.com/sarsen-build/sarsen/compiler/args"
	"github.com/sarsen-build/sarsen/compiler/launch"
	"github.com/sarsen-build/sarsen/internal/mutant"
)

// deliver writes an entry's outputs beside their places and lets the launcher rename them. If something
// is in the way, the compiler decides what is to be done about it.
func (j *job) deliver(e *entry, counter string) {
	j.hit = true
	j.daemon.writers.begin(j)
	defer j.daemon.writers.end(j)
	answer := launch.Answer{Stdout: e.stdout, Stderr: e.stderr}
	for i := len(j.command.Outputs) - 1; i >= 0; i-- { // the main output last: with it the compile is done
		o := j.command.Outputs[i]
		data, ok := e.output(o.Kind)
		if !ok {
			continue
		}
		place := j.path(o.Path)
		temp, err := j.place(o.Kind, place, data, os.FileMode(0o666&^j.ask.Umask))
		if err != nil {
			removeAll(answer.Renames)
			j.daemon.count(passOutput)
			j.peer.send(launch.Pass, nil)
			return
		}
		answer.Renames = append(answer.Renames, temp, place)
	}
	j.daemon.count(counter)
	if j.peer.send(launch.Hit, answer.Encode()) == nil {
		j.peer.receive(0) // until the launcher has ended
	}
	removeAll(answer.Renames) // what it did not rename
}

// whole reports whether an entry has what the command writes, each once. A server may say anything.
func (j *job) whole(e *entry) bool {
	left := len(e.outputs)
	for _, o := range j.command.Outputs {
		if _, ok := e.output(o.Kind); ok {
			left--
		} else if !o.Maybe && !mutant.PartTaken {
			return false
		}
	}
	return left == 0
}

func (e *entry) output(kind args.Kind) ([]byte, bool) {
	for _, o := range e.outputs {
		if o.kind == kind {
			return o.data, true
		}
	}
	return nil, false
}

// place writes a file that is to become the one at path, in the same directory.
func (j *job) place(kind args.Kind, path string, data []byte, mode os.FileMode) (temp string, err error) {
	if s, err := os.Lstat(path); err == nil && !j.replaceable(kind, s, mode) {
		return "", errNoFile
	}
	temp = j.daemon.tempName(filepath.Dir(path))
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode) // the daemon's own umask is no matter
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		os.Remove(temp)
		return "", err
	}
	return temp, nil
}

// removeAll removes the temporary files of renames that were not made.
func removeAll(renames []string) {
	for i := 0; i < len(renames); i += 2 {
		os.Remove(renames[i])
	}
}
