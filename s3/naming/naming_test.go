package naming

import (
	"strings"
	"testing"

	"github.com/sarsen-build/sarsen/digest"
)

// TestObjects: a name is read as it was written, and begins as those of all objects of its blob or record do.
func TestObjects(t *testing.T) {
	d := digest.SHA256.Of([]byte("x"))
	for _, o := range []Object{
		{Function: d.Function, Hash: d.Hash, Size: d.Size, Session: "s", N: 1},
		{Function: digest.BLAKE3, Hash: d.Hash, Size: 1 << 40, Session: "0f", N: 1<<44 - 1},
		{Record: true, Hash: d.Hash, Session: "a-b", N: 77},
	} {
		if got, ok := Parse(o.String()); !ok || got != o {
			t.Errorf("Parse(%s) = %+v, %v, want %+v", o, got, ok, o)
		}
		if !strings.HasPrefix(o.String(), o.Of()) || IsBlob(o.Of()) == o.Record || IsBlob(o.String()) {
			t.Errorf("%s: its name begins with %s, which is a blob's: %v", o, o.Of(), IsBlob(o.Of()))
		}
	}
}

// TestIsBlob: only what OfBlob returned is a blob's.
func TestIsBlob(t *testing.T) {
	d := digest.SHA256.Of([]byte("x"))
	whole := OfBlob(d.Function, d.Hash)
	for _, s := range []string{
		"", Blobs, Blobs + "ab", Blobs + "ab/", whole + "-", whole + "-1", whole[:len(whole)-1], whole + "0", strings.ToUpper(whole),
		strings.Replace(whole, "sha256", "sha255", 1), strings.Replace(whole, "/2", "/3", 1), Records + whole[len(Blobs):],
	} {
		if IsBlob(s) {
			t.Errorf("%q is taken for a blob's", s)
		}
	}
}
