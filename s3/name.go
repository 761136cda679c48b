package s3

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/ledger"
)

// Where things lie in the bucket. docs/adr/0005-one-bucket-many-servers.md says why.
const (
	registerKey = "owner" // the register that all decisions go through
	sessions    = "s/"    // s/<session>
	blobs       = "c/"    // c/<2 hex>/<function>-<hash>-<size>.<session>-<n>
	records     = "a/"    // a/<2 hex>/<record key>.<n>-<session>
	roots       = "r/"    // r/<name>.<n>-<session>
	proposals   = "p/"    // p/<epoch>-<session>, and the answers p/<epoch>-<session>.<who answers>
	verdicts    = "d/"    // d/<epoch>-<session>
	nameDigits  = 11      // of a session's time and of n, in hexadecimal: 44 bits
)

// keyOf returns the ledger's name of a blob.
func keyOf(d digest.Digest) ledger.Key {
	return ledger.Key{Kind: ledger.Kind(d.Function), Hash: d.Hash}
}

func recordKey(key [32]byte) ledger.Key { return ledger.Key{Kind: ledger.Record, Hash: key} }

// An incarnation is one object that holds a blob or a record.
type incarnation struct {
	key     ledger.Key
	size    int64 // of a blob, in bytes; of a record 0, as the key does not say
	session string
	n       uint64
}

// name returns the object's only name.
func (i incarnation) name() string {
	hash := hex.EncodeToString(i.key.Hash[:])
	if i.key.Kind == ledger.Record {
		return fmt.Sprintf("%s%s/%s.%0*x-%s", records, hash[:2], hash, nameDigits, i.n, i.session)
	}
	return fmt.Sprintf("%s-%d.%s-%0*x", blobPrefix(i.key), i.size, i.session, nameDigits, i.n)
}

// blobPrefix returns what the names of all incarnations of a blob begin with.
func blobPrefix(k ledger.Key) string {
	hash := hex.EncodeToString(k.Hash[:])
	return blobs + hash[:2] + "/" + digest.Function(k.Kind).String() + "-" + hash
}

// parseName reads what name wrote, and nothing else.
func parseName(name string) (i incarnation, ok bool) {
	what, which, ok := strings.Cut(name, ".")
	if !ok {
		return i, false
	}
	first, second, ok := strings.Cut(which, "-")
	if !ok {
		return i, false
	}
	if rest, found := strings.CutPrefix(what, records); found {
		i.key.Kind, i.session, which = ledger.Record, second, first
		if len(rest) != 3+64 || !unhex(i.key.Hash[:], rest[3:]) {
			return i, false
		}
	} else {
		i.session, which = first, second
		if rest, ok = strings.CutPrefix(what, blobs); !ok || len(rest) < 3 {
			return i, false
		}
		parts := strings.Split(rest[3:], "-")
		if len(parts) != 3 {
			return i, false
		}
		function, ok := digest.FunctionNamed(parts[0])
		size, err := strconv.ParseInt(parts[2], 10, 64)
		if !ok || err != nil || size <= 0 || !unhex(i.key.Hash[:], parts[1]) {
			return i, false
		}
		i.key.Kind, i.size = ledger.Kind(function), size
	}
	n, err := strconv.ParseUint(which, 16, 64)
	i.n = n
	return i, err == nil && n > 0 && n < 1<<(4*nameDigits) && i.name() == name
}

func unhex(dst []byte, text string) bool {
	n, err := hex.Decode(dst, []byte(text[:min(len(text), 2*len(dst))]))
	return err == nil && n == len(dst) && len(text) == 2*n
}

// A root's escaped name is cut, and ends with its hash, from so many bytes on, or so many between two slashes: S3's keys
// have 1,024 bytes, of which the bucket's prefix takes some, and where keys are files each part has 255.
const (
	maxRootKey  = 700
	maxRootPart = 150
)

// escapeRoot returns a root's name as it stands in a key. cut says that it is not the whole. What a name begins with is
// escaped to what the escaped name begins with.
func escapeRoot(name string) (escaped string, cut bool) {
	var b strings.Builder
	part := 0 // where the last part begins
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_':
			b.WriteByte(c)
		case c == '/' && i > 0 && name[i-1] != '/': // an empty part is lost where keys are files
			b.WriteByte(c)
			part = b.Len()
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
		if most := min(maxRootKey, part+maxRootPart); b.Len() > most {
			return b.String()[:most], true
		}
	}
	return b.String(), false
}

// rootPrefix returns what the names of all incarnations of a root begin with.
func rootPrefix(name string) string {
	escaped, cut := escapeRoot(name)
	if cut {
		sum := sha256.Sum256([]byte(name))
		escaped += "~" + hex.EncodeToString(sum[:])
	}
	if strings.HasSuffix(escaped, "/") {
		escaped += emptyPart
	}
	return roots + escaped + "."
}

// emptyPart stands for what is behind a slash at a name's end. It is in no other escaped name, and without it a part of a
// prefix would be ".", which some servers refuse.
const emptyPart = "%"

func rootName(name string, n uint64, session string) string {
	return fmt.Sprintf("%s%0*x-%s", rootPrefix(name), nameDigits, n, session)
}

// splitRoot returns what a root's key says: which root, in its escaped form, and its number.
func splitRoot(key string) (which string, n uint64, ok bool) {
	which, rest, ok := strings.Cut(key, ".")
	number, _, ok2 := strings.Cut(rest, "-")
	n, err := strconv.ParseUint(number, 16, 64)
	return which, n, ok && ok2 && err == nil
}
