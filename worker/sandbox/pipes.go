package sandbox

import (
	"fmt"
	"os"
	"syscall"
)

// Pipes are the standard input and output of a command that whoever started it talks to while it runs.
type Pipes struct {
	In     *os.File    // to its standard input
	Out    *os.File    // from its standard output
	theirs [2]*os.File // the command's ends, which block
}

// NewPipes makes the pipes of one command.
func NewPipes() (*Pipes, error) {
	inRead, inWrite, err := pipe()
	if err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	p := new(Pipes)
	// pipe makes the reading end ours; here the writing one is.
	err = syscall.SetNonblock(inRead, false)
	if err == nil {
		err = syscall.SetNonblock(inWrite, true)
	}
	p.In, p.theirs[0] = os.NewFile(uintptr(inWrite), "input"), os.NewFile(uintptr(inRead), "input")
	if err != nil {
		p.Close()
		return nil, err
	}
	outRead, outWrite, err := pipe()
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("pipe: %w", err)
	}
	p.Out, p.theirs[1] = os.NewFile(uintptr(outRead), "output"), os.NewFile(uintptr(outWrite), "output")
	return p, nil
}

// Close closes all ends. A command that still runs sees the end of its input.
func (p *Pipes) Close() {
	p.release()
	for _, f := range []*os.File{p.In, p.Out} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// release closes the command's ends, which it has by now.
func (p *Pipes) release() {
	for i, f := range p.theirs {
		if f != nil {
			_ = f.Close()
			p.theirs[i] = nil
		}
	}
}
