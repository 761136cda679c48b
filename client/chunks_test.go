package client_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/client"
	"github.com/sarsen-build/sarsen/digest"
)

// TestChunked sends two versions of a large blob and gets the second with the first at hand. What goes over the wire
// is counted: once all, and then the chunks around the change.
func TestChunked(t *testing.T) {
	c := dial(t, newSarsen(t), "some/instance")
	cutter := c.Cutter()
	if cutter == nil {
		t.Fatal("the server has no chunking")
	}
	first := random(24 << 20)
	second := slices.Concat(first[:9<<20], []byte("changed"), first[9<<20:])
	for _, f := range digest.Functions {
		for i, version := range []struct {
			data []byte
			most int64 // bytes sent
		}{{first, 24 << 20}, {second, 8 << 20}, {second, 0}} {
			cut, err := client.NewCut(bytes.NewReader(version.data), f, cutter)
			if err != nil {
				t.Fatal(err)
			}
			if cut.Digest != f.Of(version.data) {
				t.Fatalf("NewCut has the digest %s", cut.Digest)
			}
			sent, err := c.PutCut(t.Context(), cut, bytes.NewReader(version.data))
			if err != nil || sent > version.most || version.most > 0 && sent == 0 {
				t.Errorf("PutCut %d sent %d bytes, %v, want at most %d", i, sent, err, version.most)
			}
			t.Logf("%s, put %d: %d of %d bytes sent", f, i, sent, len(version.data))
		}
		file := filepath.Join(t.TempDir(), "first")
		if err := os.WriteFile(file, first, 0o600); err != nil {
			t.Fatal(err)
		}
		seeds := c.Seeds(f)
		for i, most := range []int64{int64(len(second)), 8 << 20} {
			var got bytes.Buffer
			fetched, err := c.GetSeeded(t.Context(), f.Of(second), seeds, &got)
			if err != nil || !bytes.Equal(got.Bytes(), second) || fetched > most {
				t.Errorf("GetSeeded %d: %d bytes, %d of them fetched, %v; want at most %d fetched", i, got.Len(), fetched, err, most)
			}
			t.Logf("%s, get with %d seeds: %d of %d bytes fetched", f, i, fetched, len(second))
			if err := seeds.Add(file); err != nil {
				t.Fatal(err)
			}
		}
		// A seed that changed since it was read is not believed.
		if err := os.WriteFile(file, second[:20<<20], 0o600); err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if _, err := c.GetSeeded(t.Context(), f.Of(second), seeds, &got); err != nil || !bytes.Equal(got.Bytes(), second) {
			t.Errorf("with a seed that changed: %d bytes, %v", got.Len(), err)
		}
	}
}

// TestChunkedAbsent: what is not there is said to be absent, and bytes that changed since they were cut are refused.
func TestChunkedAbsent(t *testing.T) {
	c := dial(t, newSarsen(t), "")
	data := random(3 << 20)
	seeds := c.Seeds(digest.SHA256)
	if _, err := c.GetSeeded(t.Context(), digest.SHA256.Of(data), seeds, new(bytes.Buffer)); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("GetSeeded = %v, want ErrNotFound", err)
	}
	if _, err := c.Chunks(t.Context(), digest.SHA256.Of(data)); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Chunks = %v, want ErrNotFound", err)
	}
	cut, err := client.NewCut(bytes.NewReader(data), digest.SHA256, c.Cutter())
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Clone(data)
	changed[1<<20]++
	if _, err := c.PutCut(t.Context(), cut, bytes.NewReader(changed)); err == nil {
		t.Error("PutCut of other bytes succeeded")
	}
}

// TestChunkedBare: a server that has no chunks gets and gives blobs whole.
func TestChunkedBare(t *testing.T) {
	_, target := newBareServer(t)
	c := dial(t, target, "")
	if c.Cutter() != nil || c.Seeds(digest.SHA256) != nil {
		t.Error("a server that says nothing of chunks has a cutter")
	}
	data := random(3 << 20)
	cut, err := client.NewCut(bytes.NewReader(data), digest.SHA256, c.Cutter())
	if err != nil {
		t.Fatal(err)
	}
	if sent, err := c.PutCut(t.Context(), cut, bytes.NewReader(data)); err != nil || sent != 3<<20 {
		t.Errorf("PutCut sent %d bytes, %v", sent, err)
	}
	var got bytes.Buffer
	if _, err := c.GetSeeded(t.Context(), cut.Digest, nil, &got); err != nil || !bytes.Equal(got.Bytes(), data) {
		t.Errorf("GetSeeded: %d bytes, %v", got.Len(), err)
	}
}
