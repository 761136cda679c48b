package s3

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/ledger"
	"github.com/sarsen-build/sarsen/s3/naming"
)

// Where things lie in the bucket. docs/adr/0005-one-bucket-many-servers.md says why.
const (
	registerKey = "owner" // the register that all decisions go through
	sessions    = "s/"    // s/<session>
	blobs       = naming.Blobs
	records     = naming.Records
	roots       = "r/"          // r/<name>.<n>-<chain>
	proposals   = "p/"          // p/<epoch>-<session>, and the answers p/<epoch>-<session>.<who answers>
	verdicts    = "d/"          // d/<epoch>-<session>
	nameDigits  = naming.Digits // of a session's time and of n
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
	o := naming.Object{Hash: i.key.Hash, Size: i.size, Session: i.session, N: i.n}
	if o.Record = i.key.Kind == ledger.Record; !o.Record {
		o.Function = digest.Function(i.key.Kind)
	}
	return o.String()
}

// blobPrefix returns what the names of all incarnations of a blob begin with.
func blobPrefix(k ledger.Key) string { return naming.OfBlob(digest.Function(k.Kind), k.Hash) }

// parseName reads what name wrote, and nothing else.
func parseName(name string) (i incarnation, ok bool) {
	o, ok := naming.Parse(name)
	k := ledger.Key{Kind: ledger.Kind(o.Function), Hash: o.Hash}
	if o.Record {
		k.Kind = ledger.Record
	}
	return incarnation{k, o.Size, o.Session, o.N}, ok
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

func rootName(name string, n uint64, chain string) string {
	return fmt.Sprintf("%s%0*x-%s", rootPrefix(name), nameDigits, n, chain)
}

// firstChain is the chain of roots that were begun on the condition that there was nothing.
const firstChain = "0000000000000000"

// splitRoot returns what a root's key says: which root, in its escaped form, its number and its chain.
func splitRoot(key string) (which string, n uint64, chain string, ok bool) {
	which, rest, ok := strings.Cut(key, ".")
	number, chain, ok2 := strings.Cut(rest, "-")
	n, err := strconv.ParseUint(number, 16, 64)
	return which, n, chain, ok && ok2 && err == nil
}
