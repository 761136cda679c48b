package files

import (
	"io/fs"
	"strconv"
	"strings"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/ledger"
)

// executableKind tells the kind of an executable blob from that of the plain one.
const executableKind = 0x40

func keyOf(d digest.Digest, executable bool) ledger.Key {
	k := ledger.Key{Kind: ledger.Kind(d.Function), Hash: d.Hash}
	if executable {
		k.Kind |= executableKind
	}
	return k
}

// An incarnation is one file.
type incarnation struct {
	key   ledger.Key
	size  int64
	place ledger.Place
}

const hexDigits = "0123456789abcdef"

// name returns the file's only name.
func (n incarnation) name() string {
	b := make([]byte, 0, 128)
	for _, c := range n.key.Hash {
		b = append(b, hexDigits[c>>4], hexDigits[c&15])
	}
	b = append(b, '-')
	b = strconv.AppendInt(b, n.size, 10)
	if f := digest.Function(n.key.Kind &^ executableKind); f != digest.SHA256 {
		b = append(b, '-')
		b = append(b, f.String()...)
	}
	if n.executable() {
		b = append(b, "-x"...)
	}
	b = append(b, '.')
	return string(strconv.AppendUint(b, uint64(n.place), 10))
}

func (n incarnation) executable() bool { return n.key.Kind&executableKind != 0 }

// mode returns the permissions of the file.
func (n incarnation) mode() fs.FileMode { return modeOf(n.executable()) }

func modeOf(executable bool) fs.FileMode {
	if executable {
		return 0o555
	}
	return 0o444
}

// parseName reads what name wrote.
func parseName(name string) (incarnation, bool) {
	var n incarnation
	rest, number, ok := strings.Cut(name, ".")
	place, err := strconv.ParseUint(number, 10, 64)
	if !ok || err != nil || place == 0 {
		return n, false
	}
	parts := strings.Split(rest, "-")
	if len(parts) < 2 {
		return n, false
	}
	size, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil || size <= 0 {
		return n, false
	}
	function, marks := digest.SHA256, parts[2:]
	if len(marks) > 0 && marks[0] != "x" {
		if function, ok = digest.FunctionNamed(marks[0]); !ok {
			return n, false
		}
		marks = marks[1:]
	}
	d, err := digest.New(function, parts[0], size)
	if err != nil || len(marks) > 1 || len(marks) == 1 && marks[0] != "x" {
		return n, false
	}
	n = incarnation{key: keyOf(d, len(marks) == 1), size: size, place: ledger.Place(place)}
	return n, n.name() == name
}

// partPrefix begins the names of private files.
const partPrefix = "part."

func partName(p ledger.Place) string { return partPrefix + strconv.FormatUint(uint64(p), 10) }
