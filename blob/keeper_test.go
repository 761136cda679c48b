package blob_test

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
)

func numbered(n int) (ds digest.Set) {
	for i := range n {
		ds.Add(digest.SHA256.Of([]byte{byte(i), byte(i >> 8), 1}))
	}
	return ds
}

// TestRoot: what was encoded comes back, and equal sets have equal lists.
func TestRoot(t *testing.T) {
	for _, n := range []int{0, 1, 200, 201, 1000} {
		r, list, err := blob.NewRoot("a/b", []byte("value"), numbered(n))
		if err != nil {
			t.Fatal(err)
		}
		if (list != nil) != (n > 200) || list != nil && r.List != digest.SHA256.Of(list) {
			t.Errorf("%d blobs: a list of %d bytes as %v", n, len(list), r.List)
		}
		got, released, err := blob.DecodeRoot(r.Encode())
		if err != nil || released || got.Name != r.Name || string(got.Value) != "value" || got.Count != int64(n) || got.Bytes != int64(3*n) {
			t.Errorf("DecodeRoot of %d blobs = %+v, %v, %v", n, got, released, err)
		}
		s := model.New(time.Hour)
		if list != nil {
			if err := blob.Put(t.Context(), s, r.List, list); err != nil {
				t.Fatal(err)
			}
		}
		want, err := r.Blobs(t.Context(), s)
		have, err2 := got.Blobs(t.Context(), s)
		if err != nil || err2 != nil || want.Len() != n || !reflect.DeepEqual(want.List(), have.List()) {
			t.Errorf("Blobs of %d = %d and %d, %v, %v", n, want.Len(), have.Len(), err, err2)
		}
	}
	straight, turned := numbered(300), digest.SetOf()
	for i := 299; i >= 0; i-- {
		turned.Add(straight.List()[i])
	}
	a, _, _ := blob.NewRoot("a", nil, straight)
	b, _, _ := blob.NewRoot("a", nil, turned)
	if a.List != b.List {
		t.Error("one set in two orders has two lists")
	}
}

func TestRootReleased(t *testing.T) {
	r, released, err := blob.DecodeRoot(blob.EncodeReleased("name"))
	if err != nil || !released || r.Name != "name" {
		t.Errorf("DecodeRoot of a released one = %+v, %v, %v", r, released, err)
	}
}

func FuzzDecodeRoot(f *testing.F) {
	for _, n := range []int{0, 3, 300} {
		r, _, _ := blob.NewRoot("a/b", []byte("value"), numbered(n))
		f.Add(r.Encode())
	}
	f.Add(blob.EncodeReleased("name"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, released, err := blob.DecodeRoot(b)
		if err != nil {
			if !errors.Is(err, blob.ErrCorrupt) {
				t.Errorf("DecodeRoot = %v, want ErrCorrupt", err)
			}
			return
		}
		again := r.Encode()
		if released {
			again = blob.EncodeReleased(r.Name)
		}
		// A number may have been written longer than it must be.
		if len(again) == len(b) && !bytes.Equal(again, b) {
			t.Errorf("%x is written again as %x", b, again)
		}
	})
}
