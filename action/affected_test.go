package action

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
)

// A holder lists what a model store holds.
type holder struct {
	Opener
	store *model.Store
	keys  []Key
}

func (h holder) EachRecord(ctx context.Context, do func([32]byte, []byte) error) error {
	for _, k := range h.keys {
		rec, err := h.store.Get(ctx, k.record())
		if err != nil {
			return err
		}
		if err := do(k.record(), rec.Value); err != nil {
			return err
		}
	}
	return nil
}

// TestAffected damages each blob that a result names, one at a time: in all ways of naming one, that
// result is found with that blob, and no other result.
func TestAffected(t *testing.T) {
	b := &builder{t, model.New(time.Hour), map[string]*repb.Digest{}}
	result := b.result()
	other := Key{"", digest.BLAKE3.Of([]byte("other action"))}
	c := New(b.store, b.store.(*model.Store))
	if err := c.Put(t.Context(), anAction, result); err != nil {
		t.Fatal(err)
	}
	if err := c.Put(t.Context(), other, &repb.ActionResult{StdoutRaw: []byte("of another")}); err != nil {
		t.Fatal(err)
	}
	for name, p := range b.named {
		gone, err := digest.New(digest.SHA256, p.Hash, p.SizeBytes)
		if err != nil {
			t.Fatal(err)
		}
		h := holder{without{b.store.(*model.Store), gone}, b.store.(*model.Store), []Key{other, anAction}}
		found := 0
		err = Affected(t.Context(), h, func(d digest.Digest) bool { return d == gone }, func(k Key, parts []digest.Digest) {
			found++
			if k.Instance != anAction.Instance || k.Action.Key() != anAction.Action.Key() || !slices.Equal(parts, []digest.Digest{gone}) {
				t.Errorf("%s: got %v of %v, want %v of %v", name, parts, k, gone, anAction)
			}
		})
		if err != nil || found != 1 {
			t.Errorf("%s: got %d results, %v, want one", name, found, err)
		}
	}
}

// TestSplitRecord checks that what is no record of a result is an error.
func TestSplitRecord(t *testing.T) {
	whole, err := encode(anAction, &repb.ActionResult{ExitCode: 3})
	if err != nil {
		t.Fatal(err)
	}
	k, message, err := splitRecord(whole)
	if err != nil || k.Instance != anAction.Instance || k.Action.Key() != anAction.Action.Key() || len(message) != 2 {
		t.Errorf("got %v, %d bytes, %v", k, len(message), err)
	}
	whole[len(whole)-1] ^= 1
	if k, ok := Owner(anAction.record(), whole); !ok || k.Instance != anAction.Instance {
		t.Errorf("the owner of a damaged record: got %v, %v", k, ok)
	}
	if k, ok := Owner([32]byte{1}, whole); ok {
		t.Errorf("the owner of another record: got %v", k)
	}
	for n := range len(whole) - len(message) {
		if k, _, err := splitRecord(whole[:n]); err == nil {
			t.Errorf("the first %d bytes: got %v, want an error", n, k)
		}
	}
	if _, _, err := splitRecord(append([]byte{0, 77}, make([]byte, 32)...)); err == nil {
		t.Error("an unknown digest function: got no error")
	}
	if _, _, err := splitRecord([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}); err == nil {
		t.Error("a huge instance name: got no error")
	}
}

// TestNoResult checks that no result's record, nor what its key is made of, begins like one of another kind.
func TestNoResult(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, 129, 255, 256, 1 << 14, 1<<14 + 128, 1 << 21} {
		k := Key{Instance: strings.Repeat("\x00", n), Action: anAction.Action}
		if strings.HasPrefix(string(k.identity()), NoResult) {
			t.Errorf("an instance name of %d bytes: the identity begins with %q", n, NoResult)
		}
	}
}
