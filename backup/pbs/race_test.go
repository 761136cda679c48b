package pbs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/backup/pbs/format"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/sim/explore"
)

// The races of seed 004 run on a store whose leases are worth nothing, with a collector that removes all that
// nothing holds, at any instant between two points.

var ctx = context.Background()

var admin = &Account{Name: "root@pam", Grants: []Grant{{"main", "", Read | Backup | Prune}}}

// A race is one store with its collector.
type race struct {
	*testing.T
	*datastore
	model *model.Store
}

func newRace(t *testing.T) *race {
	m := model.New(0)
	return &race{t, newStore(t, m, "one"), m}
}

// newStore returns the datastore of a server of that name.
func newStore(t *testing.T, m *model.Store, name string) *datastore {
	t.Helper()
	s, err := New(ctx, Options{Datastores: []Datastore{{Name: "main", Store: m, Keeper: m}}, Identity: &Identity{name: name}})
	if err != nil {
		t.Fatal(err)
	}
	return s.stores["main"]
}

// collect is the collector's task.
func (r *race) collect() {
	for range 6 {
		sim.Point("collect")
		r.model.Evict()
	}
}

func chunkOf(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 100+i) }

// backup makes a snapshot of chunks. With upon, it uploads only what the previous snapshot lacks.
func (r *race) backup(id string, time int64, upon bool, chunks ...int) error {
	return r.backupIn("", id, time, upon, chunks...)
}

func (r *race) backupIn(ns, id string, time int64, upon bool, chunks ...int) error {
	s, err := r.beginBackup(ctx, snapshotName{group{ns, "host", id}, time}, admin, false)
	if err != nil {
		return err
	}
	defer s.end()
	if upon {
		if _, err := s.previousFile(ctx, "a.didx"); err != nil {
			return fmt.Errorf("previous: %w", err)
		}
	}
	w, err := s.openDynamic("a.didx")
	if err != nil {
		return err
	}
	x := &format.Index{}
	for _, c := range chunks {
		data := chunkOf(c)
		name := sha256.Sum256(data)
		if _, known := s.known[name]; !known {
			if err := s.takeChunk(ctx, w, false, name, int64(len(data)), format.EncodeBlob(data)); err != nil {
				return fmt.Errorf("the upload of a chunk: %w", err)
			}
		}
		sim.Point("answered")
		if err := s.add(w, false, [][32]byte{name}, []uint64{x.Size}); err != nil {
			return err
		}
		x.Size += uint64(len(data))
		x.Ends, x.Digests = append(x.Ends, x.Size), append(x.Digests, name)
	}
	if err := s.close(ctx, w, false, uint64(len(chunks)), x.Size, x.Csum()); err != nil {
		return err
	}
	sim.Point("closed")
	manifest := format.EncodeBlob(fmt.Appendf(nil, `{"backup-type":"host","backup-id":%q,"backup-time":%d,"files":[]}`, id, time))
	if err := s.takeBlob(ctx, format.ManifestName, manifest); err != nil {
		return err
	}
	return s.finish(ctx)
}

func (r *race) mustBackup(id string, time int64, upon bool, chunks ...int) {
	r.Helper()
	if err := r.backup(id, time, upon, chunks...); err != nil {
		r.Errorf("backup %s at %d: %v", id, time, err)
	}
}

// check wants every snapshot that is listed to be whole, this many to be there, and nothing else to be held.
func (r *race) check(want int) {
	r.Helper()
	r.model.Evict()
	n := 0
	err := r.each(ctx, "", "", "", func(s *snapshot) error {
		n++
		v := &verifier{store: r.datastore, task: &task{}, done: map[digest.Key]bool{}}
		problems, err := v.read(ctx, s)
		for _, p := range problems {
			r.Errorf("snapshot %s has a hole: %v", s.name, p)
		}
		return err
	})
	if err != nil || n != want {
		r.Errorf("%d snapshots, %v, want %d", n, err, want)
	}
	for root, err := range r.Keeper.Kept(ctx, sessionPrefix) {
		r.Errorf("%s is still held, %v", root.Name, err)
	}
	if p := r.model.Pins(); p > 0 {
		r.Errorf("%d pins are held", p)
	}
}

// TestRaceCollector is the seed: a collector looks between the upload of a chunk and the snapshot that refers to it.
// On Proxmox Backup Server it took the chunk for garbage, and the backup lost it.
func TestRaceCollector(t *testing.T) {
	explore.Run(t, 500, func(t *testing.T, s *explore.Schedule) {
		r := newRace(t)
		s.Go("backup", func() { r.mustBackup("a", 10, false, 1, 2) })
		s.Go("other", func() { r.mustBackup("b", 10, false, 2, 3) })
		s.Go("collector", r.collect)
		s.Run()
		r.check(2)
	})
}

// TestRaceDuplicate: a chunk lies there that nothing holds any more. A backup uploads it, and is told that it is
// stored; upstream's answer from its cache touched nothing, so that the collector removed it.
func TestRaceDuplicate(t *testing.T) {
	explore.Run(t, 500, func(t *testing.T, s *explore.Schedule) {
		r := newRace(t)
		b := format.EncodeBlob(chunkOf(1))
		h := r.newHold()
		if _, err := h.put(ctx, b); err != nil {
			t.Fatal(err)
		}
		if err := h.release(ctx); err != nil {
			t.Fatal(err)
		}
		s.Go("backup", func() { r.mustBackup("a", 10, false, 1) })
		s.Go("collector", r.collect)
		s.Run()
		r.check(1)
	})
}

// TestRaceKnownChunk: what the previous snapshot has stays for the session that was told so, though that snapshot is
// forgotten meanwhile and the collector comes.
func TestRaceKnownChunk(t *testing.T) {
	explore.Run(t, 500, func(t *testing.T, s *explore.Schedule) {
		r := newRace(t)
		r.mustBackup("a", 10, false, 1, 2, 3)
		want := 1
		s.Go("backup", func() {
			err := r.backup("a", 20, true, 1, 3, 4)
			if err != nil && strings.HasPrefix(err.Error(), "previous: ") {
				want = 0 // the other one was first
			} else if err != nil {
				t.Error(err)
			}
		})
		s.Go("prune", func() {
			if err := r.forget(ctx, snapshotName{group{"", "host", "a"}, 10}); err != nil {
				t.Error(err)
			}
		})
		s.Go("collector", r.collect)
		s.Run()
		r.check(want)
	})
}

// TestRaceLongSession: Readers are exchanged for roots while chunks come, two uploads at a time.
func TestRaceLongSession(t *testing.T) {
	explore.Run(t, 500, func(t *testing.T, s *explore.Schedule) {
		r := newRace(t)
		r.server.maxReaders = 2
		s.Go("backup", func() { r.mustBackup("a", 10, false, 1, 2, 3, 4) })
		s.Go("collector", r.collect)
		s.Run()
		r.check(1)
	})
}

// TestRaceForget: a snapshot that is forgotten while its notes change is gone, and does not come back with them.
func TestRaceForget(t *testing.T) {
	explore.Run(t, 500, func(t *testing.T, s *explore.Schedule) {
		r := newRace(t)
		r.mustBackup("a", 10, false, 1)
		name := snapshotName{group{"", "host", "a"}, 10}
		s.Go("protect", func() {
			err := r.change(ctx, name, func(s *snapshot, _ *hold) error { s.Comment = "a note"; return nil })
			if err != nil && statusOf(err) != 404 {
				t.Error(err)
			}
		})
		s.Go("forget", func() {
			if err := r.forget(ctx, name); err != nil {
				t.Error(err)
			}
		})
		s.Go("collector", r.collect)
		s.Run()
		if _, err := r.snapshot(ctx, name); statusOf(err) != 404 {
			t.Errorf("the snapshot is there again: %v", err)
		}
		r.check(0)
	})
}

// TestRaceNamespace: no snapshot comes into a namespace that is being removed, where nobody would find it.
func TestRaceNamespace(t *testing.T) {
	explore.Run(t, 500, func(t *testing.T, s *explore.Schedule) {
		r := newRace(t)
		if err := r.createNamespace(ctx, "", "a"); err != nil {
			t.Fatal(err)
		}
		s.Go("backup", func() {
			if err := r.backupIn("a", "a", 10, false, 1); err != nil && statusOf(err) != 404 {
				t.Error(err)
			}
		})
		s.Go("remove", func() {
			if err := r.deleteNamespace(ctx, "a", true, &removed{}); err != nil && statusOf(err) != 400 {
				t.Error(err)
			}
		})
		s.Run()
		there, err := r.hasNamespace(ctx, "a")
		if err != nil {
			t.Fatal(err)
		}
		for root, err := range r.Keeper.Kept(ctx, rootPrefix) {
			if !there || err != nil {
				t.Errorf("the namespace is gone, and %s is kept, %v", root.Name, err)
			}
		}
	})
}

// TestRaceFinish: calls that run while the backup is finished or cut end before it does, and leave nothing.
func TestRaceFinish(t *testing.T) {
	explore.Run(t, 1000, func(t *testing.T, s *explore.Schedule) {
		r := newRace(t)
		ss, err := r.beginBackup(ctx, snapshotName{group{"", "host", "a"}, 10}, admin, false)
		if err != nil {
			t.Fatal(err)
		}
		w, err := ss.openDynamic("a.didx")
		if err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			s.Go(fmt.Sprint("upload ", i), func() {
				if ss.enter() != nil {
					return
				}
				defer ss.calls.Done()
				data := chunkOf(i)
				err := ss.takeChunk(ctx, w, false, sha256.Sum256(data), int64(len(data)), format.EncodeBlob(data))
				if err != nil && !errors.Is(err, errEnded) {
					t.Error(err)
				}
			})
		}
		s.Go("cut", ss.end)
		s.Go("collector", r.collect)
		s.Run()
		r.check(0)
		if b, _ := r.model.Counts(); b[1] != 0 {
			t.Errorf("%d blobs are left", b[1])
		}
	})
}

// TestRaceCut: a connection breaks while its backup is finished. The snapshot is there, whole, if finish said so; else it
// is not.
func TestRaceCut(t *testing.T) {
	explore.Run(t, 1000, func(t *testing.T, s *explore.Schedule) {
		r := newRace(t)
		ss, err := r.beginBackup(ctx, snapshotName{group{"", "host", "a"}, 10}, admin, false)
		if err != nil {
			t.Fatal(err)
		}
		data := chunkOf(1)
		name := sha256.Sum256(data)
		x := &format.Index{Size: uint64(len(data)), Ends: []uint64{uint64(len(data))}, Digests: [][32]byte{name}}
		w, err := ss.openDynamic("a.didx")
		err = errors.Join(err, ss.takeChunk(ctx, w, false, name, int64(len(data)), format.EncodeBlob(data)),
			ss.add(w, false, x.Digests, []uint64{0}), ss.close(ctx, w, false, 1, x.Size, x.Csum()),
			ss.takeBlob(ctx, format.ManifestName, format.EncodeBlob([]byte("{}"))))
		if err != nil {
			t.Fatal(err)
		}
		finished := 0
		s.Go("finish", func() {
			if ss.finish(ctx) == nil {
				finished = 1
			}
		})
		s.Go("cut", ss.end)
		s.Go("collector", r.collect)
		s.Run()
		r.check(finished)
	})
}

// TestRestartReleases: what a session held when its process was killed is let go by the next one.
func TestRestartReleases(t *testing.T) {
	r := newRace(t)
	r.mustBackup("a", 10, false, 1)
	ss, err := r.beginBackup(ctx, snapshotName{group{"", "host", "a"}, 20}, admin, false)
	if err != nil {
		t.Fatal(err)
	}
	r.server.maxReaders = 1
	if _, err := ss.hold.put(ctx, chunkOf(7)); err != nil {
		t.Fatal(err)
	}
	r.model.Restart(false)
	newStore(t, r.model, "one")
	r.check(1)
}

// TestRestartBeside: a server that starts lets go of nothing that a session of another one holds, but of what is left
// of one that never came back.
func TestRestartBeside(t *testing.T) {
	r := newRace(t)
	ss, err := r.beginBackup(ctx, snapshotName{group{"", "host", "a"}, 20}, admin, false)
	if err != nil {
		t.Fatal(err)
	}
	r.server.maxReaders = 1
	d, err := ss.hold.put(ctx, chunkOf(7))
	if err != nil {
		t.Fatal(err)
	}
	gone := digest.SHA256.Of(chunkOf(8))
	old := fmt.Appendf(nil, `{"since":%d}`, time.Now().Add(-orphaned-time.Hour).Unix())
	err = errors.Join(blob.Put(ctx, r.model, gone, chunkOf(8)), r.model.Keep(ctx, sessionPrefix+"main/lost/1/0", old, digest.SetOf(gone)))
	if err != nil {
		t.Fatal(err)
	}
	newStore(t, r.model, "two")
	r.model.Evict()
	if _, err := blob.Get(ctx, r.model, d); err != nil {
		t.Errorf("another server's session lost a chunk: %v", err)
	}
	if _, err := blob.Get(ctx, r.model, gone); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("what a lost server held: %v, want it gone", err)
	}
	ss.end()
	r.check(0)
}

// TestIdentity: what a directory holds stays, and no two directories are one server.
func TestIdentity(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	first, err1 := LoadIdentity(a)
	again, err2 := LoadIdentity(a)
	other, err3 := LoadIdentity(b)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	if first.name != again.name || first.Fingerprint() != again.Fingerprint() || first.name == "" {
		t.Errorf("a server came back as %q, %s; it was %q, %s", again.name, again.Fingerprint(), first.name, first.Fingerprint())
	}
	if first.name == other.name || first.Fingerprint() == other.Fingerprint() {
		t.Errorf("two servers are %q, %s", other.name, other.Fingerprint())
	}
}
