package launch

import "errors"

// Version is the first field of every request. A daemon of another version answers Pass and ends.
const Version = "4"

// MaxMessage bounds a message between launcher and daemon, in bytes.
const MaxMessage = 256 << 20

// A Kind says what a message is.
type Kind byte

// What launchers and daemons say to each other. A Request is answered by Busy and Far any number of times and
// then Hit, Run, Preprocess, Split or Pass. Preprocess is followed by Preprocessed, which is answered like a
// Request. Run is followed by Done, which is answered by Busy and then Stored.
const (
	Request      Kind = 'q'
	Busy         Kind = 'b' // the daemon works on it
	Far          Kind = 'f' // another machine works on it; the next word comes within FarPatience
	Hit          Kind = 'h' // outputs lie beside their places
	Run          Kind = 'r' // run Argv, then say Done
	Preprocess   Kind = 'e' // run Argv, which preprocesses, then say Preprocessed
	Preprocessed Kind = 't'
	Split        Kind = 'm' // compile each of Parts by itself, and ask for each
	Pass         Kind = 'p' // run the compiler as it was called; nothing is to be said afterwards
	Done         Kind = 'd'
	Stored       Kind = 's'
)

// An Ask is what a launcher wants to have compiled.
type Ask struct {
	Version  string
	Compiler string   // absolute path
	Args     []string // without the compiler
	Dir      string   // where the compiler would run, as it would call it
	Env      []string // NAME=value, those that Matters keeps
	Umask    uint32
	View     string // names the tree of files that the launcher sees
	Terminal bool   // standard error is one
}

// An Answer is what the daemon wants to be done.
type Answer struct {
	Argv           []string   // of Run and Preprocess, without the compiler
	Unset          []string   // of Run, Preprocess and Split: variables that are in the arguments and must not be in the environment
	Headers        bool       // of Run: standard error lists headers (-H), which nobody asked for
	Renames        []string   // of Hit: from, to, from, to
	Stdout, Stderr []byte     // of Hit
	Parts          [][]string // of Split: arguments with one source each
	Jobs           int        // of Split: how many at once
}

// A Report says how a compiler that the daemon asked for ended.
type Report struct {
	Status         int   // exit status, or 128 and the signal
	Began          int64 // nanoseconds since 1970
	Stdout, Stderr []byte
	Headers        []string // that -H listed, in their order
}

var errMessage = errors.New("malformed message")

// encoder appends fields to a message.
type encoder []byte

// number appends seven bits a byte, least first; the highest bit says that more follow.
func (e *encoder) number(n uint64) {
	for ; n >= 0x80; n >>= 7 {
		*e = append(*e, byte(n)|0x80)
	}
	*e = append(*e, byte(n))
}

func (e *encoder) bytes(b []byte)  { e.number(uint64(len(b))); *e = append(*e, b...) }
func (e *encoder) string(s string) { e.number(uint64(len(s))); *e = append(*e, s...) }
func (e *encoder) strings(ss []string) {
	e.number(uint64(len(ss)))
	for _, s := range ss {
		e.string(s)
	}
}

func (e *encoder) bool(b bool) {
	if b {
		e.number(1)
	} else {
		e.number(0)
	}
}

// decoder takes fields from a message; after the first that is not there, all are empty.
type decoder struct {
	b   []byte
	bad bool
}

// maxNumber is how many bytes a number takes at most.
const maxNumber = 10

func (d *decoder) number() uint64 {
	var n uint64
	for i, c := range d.b {
		if i == maxNumber-1 && c > 1 { // more than 64 bits
			break
		}
		if n |= uint64(c&0x7f) << (7 * i); c < 0x80 {
			d.b = d.b[i+1:]
			return n
		}
	}
	d.b, d.bad = nil, true
	return 0
}

func (d *decoder) bytes() []byte {
	n := d.number()
	if n > uint64(len(d.b)) {
		d.b, d.bad = nil, true
		return nil
	}
	field := d.b[:n:n]
	d.b = d.b[n:]
	return field
}

func (d *decoder) string() string { return string(d.bytes()) }
func (d *decoder) bool() bool     { return d.number() == 1 }

func (d *decoder) strings() []string {
	n := d.number()
	if n > uint64(len(d.b)) { // each takes a byte at least
		d.b, d.bad = nil, true
		return nil
	}
	ss := make([]string, n)
	for i := range ss {
		ss[i] = d.string()
	}
	return ss
}

func (d *decoder) end() error {
	if d.bad || len(d.b) > 0 {
		return errMessage
	}
	return nil
}

// Frame returns a message as it travels: four bytes of length, least first, the kind, and the body.
func Frame(k Kind, body []byte) []byte {
	n := len(body) + 1
	b := append(make([]byte, 0, 4+n), byte(n), byte(n>>8), byte(n>>16), byte(n>>24), byte(k))
	return append(b, body...)
}

// lengthOf returns the length with which a message begins.
func lengthOf(b []byte) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

// Encode returns the body of a Request.
func (a *Ask) Encode() []byte {
	e := make(encoder, 0, 4096)
	e.string(a.Version)
	e.string(a.Compiler)
	e.strings(a.Args)
	e.string(a.Dir)
	e.strings(a.Env)
	e.number(uint64(a.Umask))
	e.string(a.View)
	e.bool(a.Terminal)
	return e
}

// Decode reads the body of a Request. Another version has other fields, so only that is read of it.
func (a *Ask) Decode(body []byte) error {
	d := decoder{b: body}
	if a.Version = d.string(); a.Version != Version {
		return nil
	}
	a.Compiler, a.Args, a.Dir, a.Env = d.string(), d.strings(), d.string(), d.strings()
	a.Umask, a.View, a.Terminal = uint32(d.number()), d.string(), d.bool()
	return d.end()
}

// Encode returns the body of an answer.
func (a *Answer) Encode() []byte {
	var e encoder
	e.strings(a.Argv)
	e.bool(a.Headers)
	e.strings(a.Renames)
	e.bytes(a.Stdout)
	e.bytes(a.Stderr)
	e.strings(a.Unset)
	e.number(uint64(len(a.Parts)))
	for _, part := range a.Parts {
		e.strings(part)
	}
	e.number(uint64(a.Jobs))
	return e
}

// Decode reads the body of an answer.
func (a *Answer) Decode(body []byte) error {
	d := decoder{b: body}
	a.Argv, a.Headers, a.Renames, a.Stdout, a.Stderr = d.strings(), d.bool(), d.strings(), d.bytes(), d.bytes()
	a.Unset = d.strings()
	n := d.number()
	if n > uint64(len(d.b)) { // each takes a byte at least
		return errMessage
	}
	for range n {
		a.Parts = append(a.Parts, d.strings())
	}
	a.Jobs = int(d.number())
	return d.end()
}

// Encode returns the body of Done or Preprocessed.
func (r *Report) Encode() []byte {
	var e encoder
	e.number(uint64(r.Status))
	e.number(uint64(r.Began))
	e.bytes(r.Stdout)
	e.bytes(r.Stderr)
	e.strings(r.Headers)
	return e
}

// Decode reads the body of Done or Preprocessed.
func (r *Report) Decode(body []byte) error {
	d := decoder{b: body}
	r.Status, r.Began, r.Stdout, r.Stderr, r.Headers = int(d.number()), int64(d.number()), d.bytes(), d.bytes(), d.strings()
	return d.end()
}
