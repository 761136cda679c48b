package redis_test

import (
	"errors"
	"testing"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/redisserver"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// TestPin: what another server wrote is held where it is, and not fetched for that.
func TestPin(t *testing.T) {
	b := &bucket.Memory{}
	o := at(redisserver.Start(t))
	here, there := join(t, b, o, false), join(t, b, o, false)
	ds, data := some(1, 3, 20000)
	putAll(t, here, ds[:2], data[:2])
	var missing *blob.MissingError
	if _, err := blob.Pin(t.Context(), there, digest.SetOf(ds...)); !errors.As(err, &missing) || len(missing.Blobs) != 1 || missing.Blobs[0] != ds[2] {
		t.Errorf("Pin = %v, want that %s is missing", err, ds[2])
	}
	release, err := blob.Pin(t.Context(), there, digest.SetOf(ds[:2]...))
	if err != nil {
		t.Fatal(err)
	}
	if n := there.inner.Stats(); n.Pins != 2 || n.Downloads != 0 {
		t.Errorf("%d pins and %d downloads, want 2 and none", n.Pins, n.Downloads)
	}
	release()
	if n := there.inner.Stats().Pins; n != 0 {
		t.Errorf("%d pins are left", n)
	}
}
