//go:build linux && (amd64 || arm64)

package sandbox

import (
	"fmt"
	"syscall"
	"unsafe"
)

// An image is memory as it will lie at a known address in another process. All that is in it refers to other parts of
// it by their addresses there.
type image struct {
	at    uintptr // where its first byte will lie
	bytes []byte
}

// put appends bytes and returns their address.
func (m *image) put(b []byte) uintptr {
	for len(m.bytes)%8 != 0 {
		m.bytes = append(m.bytes, 0)
	}
	m.bytes = append(m.bytes, b...)
	return m.at + uintptr(len(m.bytes)-len(b))
}

// text appends a string as C has it.
func (m *image) text(s string) uintptr {
	at := m.put([]byte(s))
	m.bytes = append(m.bytes, 0)
	return at
}

// texts appends an array of strings as exec wants it, and returns the array's address.
func (m *image) texts(list []string) uintptr {
	array := make([]uintptr, len(list)+1)
	for i, s := range list {
		array[i] = m.text(s)
	}
	return m.put(unsafe.Slice((*byte)(unsafe.Pointer(&array[0])), len(array)*8))
}

// raw returns the memory of a value that holds no pointers.
func raw[T any](v T) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(&v)), unsafe.Sizeof(v)) }

// A call is one system call of a script.
type call struct {
	number uintptr
	args   [6]uintptr
	from   [6]uint8 // 1 + the register that replaces the argument; 0: none
	into   uint8    // 1 + the register that takes the result; 0: none
}

// A register of a script keeps the result of a call, a descriptor mostly, for later ones.
type register uint8

const registers = 8

// A script is a list of system calls that a forked process makes, in order.
type script struct {
	image *image
	calls []call
	steps []step
	part  part // of the calls that are added
}

// A step says what a call is, for errors.
type step struct {
	name string
	part part
}

// add adds a call. An argument is an int, a uintptr, a string, the bytes of a struct, or a register.
func (s *script) add(name string, number uintptr, args ...any) *call {
	c := call{number: number}
	for i, a := range args {
		switch v := a.(type) {
		case int:
			c.args[i] = uintptr(v)
		case uintptr:
			c.args[i] = v
		case register:
			c.from[i] = uint8(v) + 1
		case string:
			c.args[i] = s.image.text(v)
		case []byte:
			c.args[i] = s.image.put(v)
		default:
			panic(fmt.Sprintf("%s: argument of type %T", name, a))
		}
	}
	s.calls = append(s.calls, c)
	s.steps = append(s.steps, step{name, s.part})
	return &s.calls[len(s.calls)-1]
}

// to keeps the result in a register.
func (c *call) to(r register) { c.into = uint8(r) + 1 }

// A scene is where the calls of a script lie in an image.
type scene struct{ at, count uintptr }

func (s *script) scene() scene {
	size := len(s.calls) * int(unsafe.Sizeof(call{}))
	return scene{s.image.put(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s.calls))), size)) - s.image.at, uintptr(len(s.calls))}
}

// play makes the calls of a script, in a process that was forked: it may do nothing but system calls, for most of
// Go's memory is not there. It returns -1, or which call failed and why.
//
//go:nosplit
//go:norace
//go:nocheckptr
func play(f *frame, s *scene) (int, uintptr) {
	for i := uintptr(0); i < s.count; i++ {
		c := (*call)(unsafe.Add(unsafe.Pointer(f), s.at+i*unsafe.Sizeof(call{})))
		a := c.args
		for j := range a {
			if r := c.from[j]; r != 0 {
				a[j] = f.registers[(r-1)%registers]
			}
		}
		r, _, e := syscall.RawSyscall6(c.number, a[0], a[1], a[2], a[3], a[4], a[5])
		if e != 0 {
			return int(i), uintptr(e)
		}
		if c.into != 0 {
			f.registers[(c.into-1)%registers] = r
		}
	}
	return -1, 0
}
