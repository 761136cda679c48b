package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/config"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/versitygw"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/s3"
	"github.com/sarsen-build/sarsen/s3/bucket"
	"github.com/sarsen-build/sarsen/segment"
	"github.com/sarsen-build/sarsen/tier"
)

// TestExplainClock: a real server's answer to a clock that is wrong names the clock.
func TestExplainClock(t *testing.T) {
	gate := versitygw.Start(t)
	keys := filepath.Join(t.TempDir(), "keys.yaml")
	if err := os.WriteFile(keys, []byte("access-key: "+gate.AccessKey+"\nsecret-key: "+gate.SecretKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := config.Bucket{Name: gate.Bucket, Endpoint: gate.Endpoint, Region: "us-east-1", PathStyle: "auto", Credentials: keys}
	if _, err := openBucket(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	_, err := openBucket(bucket.WithIssued(t.Context(), time.Now().Add(-time.Hour)), c)
	if err == nil || !strings.Contains(err.Error(), "this machine's clock") || !strings.Contains(err.Error(), "NTP") {
		t.Errorf("an hour late: %v, want that the clock is named", err)
	}
}

// TestMoveRoots: what the disk kept alone is kept by the bucket after the first start with one, also if a start was
// killed in the middle; what has a hole, or has another namesake in the bucket, stays and stops nothing.
func TestMoveRoots(t *testing.T) {
	ctx := t.Context()
	ring, err := segment.Open(ctx, vfs.OS{}, t.TempDir(), segment.Options{MaxSize: 64 << 20, Lease: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer ring.Close()
	far, err := s3.Open(ctx, &bucket.Memory{}, s3.Options{Heartbeat: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	h := &behind{log: slog.New(slog.DiscardHandler), ring: ring, far: far, tier: tier.New(ring, far, tier.Options{})}
	defer h.tier.Close(ctx)
	put := func(s blob.Store, text string) digest.Digest {
		d := digest.SHA256.Of([]byte(text))
		if err := blob.Put(ctx, s, d, []byte(text)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	keep := func(k blob.Keeper, name, value string, ds ...digest.Digest) {
		if err := k.Keep(ctx, name, []byte(value), digest.SetOf(ds...)); err != nil {
			t.Fatal(err)
		}
	}
	a, b := put(ring, "one"), put(ring, "two")
	keep(ring, "alone", "v", a, b)
	keep(ring, "killed", "v", a, b)
	keep(h.tier, "killed", "v", a, b) // and then it was killed
	keep(ring, "other", "disk's", a)
	keep(h.tier, "other", "bucket's", a)
	if err := h.moveRoots(ctx); err != nil {
		t.Fatal(err)
	}
	if got := names(t, ctx, ring); got != "other" {
		t.Errorf("the disk keeps %s, want other", got)
	}
	if got := names(t, ctx, far); got != "alone killed other" {
		t.Errorf("the bucket keeps %s, want alone, killed and other", got)
	}
	root, err := blob.KeptRoot(ctx, far, "other")
	if err != nil || string(root.Value) != "bucket's" {
		t.Errorf("other is %q, %v, want the bucket's", root.Value, err)
	}
	gone := blob.Root{Name: "hole", Few: []digest.Digest{digest.SHA256.Of([]byte("never put"))}}
	if err := h.moveRoot(ctx, gone, nil); err != nil {
		t.Errorf("a root with a hole: %v, want that it stays", err)
	}
}

func names(t *testing.T, ctx context.Context, k blob.Keeper) string {
	t.Helper()
	var list []string
	for root, err := range k.Kept(ctx, "") {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, root.Name)
	}
	return strings.Join(list, " ")
}
