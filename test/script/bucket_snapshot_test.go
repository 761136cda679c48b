package script

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestBucketSnapshot keeps two versions of a directory, kills the server, loses its disk, collects all that may go with no
// grace, and restores. When both are forgotten nothing is left in the bucket.
func TestBucketSnapshot(t *testing.T) {
	t.Parallel() // it waits more than it works
	for _, write := range []string{"through", "back"} {
		t.Run(write, func(t *testing.T) {
			if testing.Short() && write == "back" {
				t.Skip("SKIPPED: -short writes through only")
			}
			f := newFleet(t, "  write: "+write+"\n  refresh: 1s\n  collect: never\n")
			a := f.start("a")
			r := rand.NewChaCha8([32]byte{7})
			source := filepath.Join(f.dir, "source")
			versions := []map[string][]byte{{}, {}}
			for i, large := 0, random(r, 5_000_000); i < len(versions); i++ {
				files := versions[i]
				files["small"], files["deep/er/large"] = random(r, 1000), append(bytes.Clone(large), byte(i))
				for name, data := range files {
					full := filepath.Join(source, name)
					if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(full, data, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				f.mustRun("snapshot", "create", "work", source, "--server", "grpc://"+a.grpc)
				time.Sleep(1100 * time.Millisecond) // an ID begins with the second
			}
			if err := a.put(random(r, 100_000)); err != nil { // nobody keeps that
				t.Fatal(err)
			}
			a.kill()
			if err := os.RemoveAll(filepath.Join(f.dir, "a")); err != nil {
				t.Fatal(err)
			}
			a = f.start("a")
			f.collect(a)
			restore := func(a *member, id string, want map[string][]byte) {
				t.Helper()
				target := filepath.Join(f.dir, "restored-"+id)
				f.mustRun("snapshot", "restore", id, target, "--server", "grpc://"+a.grpc)
				for name, data := range want {
					if got, err := os.ReadFile(filepath.Join(target, name)); err != nil || !bytes.Equal(got, data) {
						t.Errorf("%s: %s has %d bytes, %v, want %d", id, name, len(got), err, len(data))
					}
				}
			}
			var ids []string
			for line := range strings.Lines(f.mustRun("snapshot", "list", "--server", "grpc://"+a.grpc)) {
				ids = append(ids, strings.Fields(line)[1])
			}
			if len(ids) != len(versions) {
				t.Fatalf("%d snapshots are listed, want %d", len(ids), len(versions))
			}
			f.mustRun("snapshot", "verify", ids[0], ids[1], "--server", "grpc://"+a.grpc)
			for i, id := range ids {
				restore(a, id, versions[i])
			}
			// What one let go of, and the other does not hold, goes.
			before := f.fsck()
			f.mustRun("snapshot", "forget", "--id", ids[0], "--server", "grpc://"+a.grpc)
			f.collect(a)
			if after := f.fsck(); before.Bytes-after.Bytes < 4_000_000 {
				t.Errorf("a snapshot of 5 MB was forgotten; the bucket had %d bytes before and %d after", before.Bytes, after.Bytes)
			}
			f.mustRun("snapshot", "verify", ids[1], "--server", "grpc://"+a.grpc)
			f.mustRun("snapshot", "forget", "--id", ids[1], "--server", "grpc://"+a.grpc)
			f.collect(a)
			if c := f.fsck(); c.Bytes != 0 {
				t.Errorf("all is forgotten, and the bucket has %+v", c)
			}
		})
	}
}

// collect collects all that may go twice, after what was promised has ended.
func (f *fleet) collect(alive *member) {
	f.t.Helper()
	for range 2 {
		time.Sleep(2 * time.Second) // the lease is a second
		if err := f.bury(alive); err != nil {
			f.t.Fatal(err)
		}
		f.mustRun("gc", "--server", alive.base, "--all")
	}
}
