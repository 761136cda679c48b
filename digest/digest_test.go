package digest

import (
	"errors"
	"strings"
	"testing"
)

const abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

func TestParse(t *testing.T) {
	for _, text := range []string{
		abc + "/3",
		"blake3/6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85/3",
		SHA256.Empty().String(),
		BLAKE3.Empty().String(),
	} {
		d, err := Parse(text)
		if err != nil || d.String() != text {
			t.Errorf("Parse(%q) = %v, %v", text, d, err)
		}
	}
	if d, err := Parse("sha256/" + abc + "/3"); err != nil || d != SHA256.Of([]byte("abc")) {
		t.Errorf("Parse with the function's name = %v, %v", d, err)
	}
	if d, err := Parse("blake3/6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85/3"); err != nil || d != BLAKE3.Of([]byte("abc")) {
		t.Errorf("Parse of BLAKE3 = %v, %v", d, err)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{
		"", "/", abc, abc + "/", abc + "/-1", abc + "/+3", abc + "/3x", abc + "/99999999999999999999",
		strings.ToUpper(abc) + "/3", abc[1:] + "/3", abc + "0/3", "md5/" + abc + "/3", abc + "/3/4",
		abc + "/0", SHA256.Empty().Hex() + "/3", strings.Repeat("g", 64) + "/3",
	} {
		if d, err := Parse(text); !errors.Is(err, ErrSyntax) {
			t.Errorf("Parse(%q) = %v, %v, want ErrSyntax", text, d, err)
		}
	}
}

func TestEmpty(t *testing.T) {
	any := SHA256.Empty()
	any.Size = AnySize
	for d, want := range map[Digest]bool{
		SHA256.Empty():         true,
		BLAKE3.Empty():         true,
		any:                    true,
		SHA256.Of([]byte{0}):   false,
		{Function: SHA256}:     false,
		{Size: 0, Function: 9}: false,
	} {
		if got := d.IsEmpty(); got != want {
			t.Errorf("%v.IsEmpty() = %v, want %v", d, got, want)
		}
	}
}

func TestSet(t *testing.T) {
	a, b := SHA256.Of([]byte("a")), SHA256.Of([]byte("b"))
	s := SetOf(b, a, b, a)
	if got := s.List(); len(got) != 2 || got[0] != b || got[1] != a {
		t.Errorf("SetOf(b, a, b, a) = %v", got)
	}
	var zero Set
	if zero.Has(a) || !zero.Add(a) || zero.Add(a) || zero.Len() != 1 {
		t.Error("the zero Set does not work")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(abc + "/3")
	f.Add("blake3/" + abc + "/17")
	f.Add(abc + "/-1")
	f.Add("sha256//")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := Parse(text)
		if err != nil {
			return
		}
		if again, err := Parse(d.String()); err != nil || again != d {
			t.Errorf("Parse(%q) = %v, whose text parses to %v, %v", text, d, again, err)
		}
	})
}
