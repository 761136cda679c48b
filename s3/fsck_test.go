package s3

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// TestFsck: a sound bucket is sound, and each damage is found.
func TestFsck(t *testing.T) {
	b := &bucket.Memory{PageSize: 7}
	s := openStore(t, b, small)
	ctx := t.Context()
	var ds digest.Set
	for i := range 30 {
		data := storetest.Bytes(uint64(i), 10+i*1000)
		d := digest.SHA256.Of(data)
		ds.Add(d)
		if err := blob.Put(ctx, s, d, data); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		if err := s.Put(ctx, [32]byte{1}, fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Keep(ctx, "a name: é.~", []byte("v"), ds); err != nil {
		t.Fatal(err)
	}
	look := func(what string) Survey {
		t.Helper()
		c, err := Fsck(ctx, b, Check{Bytes: true})
		if err != nil {
			t.Fatalf("%s: Fsck = %v", what, err)
		}
		return c
	}
	c := look("sound")
	if !c.Sound() || c.Objects != 33 || c.Verified != 33 || c.SecondCopies != 2 || c.Roots != 1 || c.Unkept != 0 || len(c.Strange) > 0 {
		t.Errorf("a sound bucket: %+v", c)
	}
	for _, key := range append(b.Keys(blobs)[:4], b.Keys(records)[0], b.Keys(roots)[0]) {
		whole := b.Value(key)
		for what, damaged := range map[string][]byte{
			"cut":      whole[:len(whole)-1],
			"extended": append(bytes.Clone(whole), 0),
			"empty":    {},
			"flipped":  flipped(whole, len(whole)-1),
			"header":   flipped(whole, 20),
			"table":    flipped(whole, headerSize+1),
			"magic":    flipped(whole, 0),
		} {
			if what == "extended" && strings.HasPrefix(key, roots) {
				continue
			}
			b.Set(key, damaged)
			if c := look(what); len(c.Problems) != 1 || c.Problems[0].Key != key {
				t.Errorf("%s %s: %+v", key, what, c.Problems)
			}
		}
		b.Set(key, nil)
		if c := look("gone"); strings.HasPrefix(key, blobs) != (len(c.Incomplete) == 1) {
			t.Errorf("%s is gone: %+v", key, c.Incomplete)
		}
		b.Set(key, whole)
	}
	b.Set("c/aa/strange", []byte("x"))
	if c := look("strange"); len(c.Strange) != 1 || !c.Sound() {
		t.Errorf("a strange object: %+v", c)
	}
	closeStore(t, s)
}

func flipped(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}

// TestFsckBusy: what can't be read says nothing about its bytes.
func TestFsckBusy(t *testing.T) {
	for _, prefix := range []string{blobs, roots} {
		b := &bucket.Memory{}
		s := openStore(t, b, small)
		keepAll(t, s, "root", []byte("x"))
		b.Fault = func(op, key string) bucket.Fault {
			if op == "get" && strings.HasPrefix(key, prefix) {
				return bucket.Refuse
			}
			return bucket.None
		}
		if c, err := Fsck(t.Context(), b, Check{Bytes: true}); !errors.Is(err, bucket.ErrBusy) || !c.Sound() {
			t.Errorf("%s: Fsck = %+v, %v, want ErrBusy and no problem", prefix, c, err)
		}
		b.Fault = nil
		closeStore(t, s)
	}
}
