package args

import (
	"sort"
	"strings"
)

// A form says how an option takes its value.
type form uint8

const (
	flag     form = iota // -c
	joined               // -std=c11; the value may be empty
	separate             // -arch x86_64
	either               // -Idir, -I dir
)

// An action says what an option does to the command.
type action uint8

const (
	hash     action = iota // changes the result
	pre                    // is read by the preprocessor only
	hard                   // cannot be cached
	ignore                 // changes nothing
	mode                   // how far the compiler goes
	output                 // names the main output
	language               // -x
	dir                    // names an include directory; the option's name says of which kind
	forced                 // includes a header
	file                   // names a file that is hashed
	dep                    // of the dependency file
	prefix                 // maps old=new
	modules                // C++ modules, and clang's
	onlyPre                // only preprocesses
	pass                   // passes a value on to another program
	arch                   // an architecture
	effect                 // hashed, and with an effect that the parser knows by name
)

// An option is a row of a dialect's table. Tables are sorted by name.
type option struct {
	name   string
	form   form
	action action
}

// takes reports whether the option matches an argument that begins with its name.
func (o option) takes(arg string) bool {
	return len(arg) == len(o.name) || o.form == joined || o.form == either
}

// lookup returns the row with the longest name that fits the argument.
func lookup(table []option, arg string) (option, bool) {
	key := arg
	for key != "" {
		n := sort.Search(len(table), func(i int) bool { return table[i].name > key })
		if n == 0 {
			return option{}, false
		}
		o := table[n-1]
		if strings.HasPrefix(arg, o.name) && o.takes(arg) {
			return o, true
		}
		// Whatever else fits is a prefix of both, and shorter than what was just seen.
		same := 0
		for same < len(key) && same < len(o.name) && key[same] == o.name[same] {
			same++
		}
		if same == len(key) {
			same--
		}
		key = key[:same]
	}
	return option{}, false
}
