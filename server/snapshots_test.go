package server

import (
	"errors"
	"io"
	"slices"
	"testing"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/snapshotpb"
)

// keeping makes a rig keep snapshots in a store that leases nothing.
func keeping(o *Options) {
	store := model.New(0)
	o.Store, o.Keeper, o.Actions = store, store, action.New(store, store)
}

// listed returns the IDs of what is kept.
func listed(t *testing.T, c snapshotpb.SnapshotsClient, instance, name string) (ids []string) {
	t.Helper()
	stream, err := c.List(t.Context(), &snapshotpb.ListRequest{InstanceName: instance, Name: name})
	for err == nil {
		var s *snapshotpb.Snapshot
		if s, err = stream.Recv(); err == nil {
			ids = append(ids, s.Id)
		}
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return ids
}

// TestSnapshots: a tree stays for as long as one snapshot of it does; names and instances are apart, and the oldest
// comes first.
func TestSnapshots(t *testing.T) {
	var store *model.Store
	r := newRig(t, keeping, func(o *Options) { store = o.Store.(*model.Store); withChunks(t)(o) })
	c := snapshotpb.NewSnapshotsClient(r.conn)
	file := []byte("a file")
	data, err := proto.Marshal(&repb.Directory{Files: []*repb.FileNode{{Name: "f", Digest: wireOf(file)}}})
	if err != nil {
		t.Fatal(err)
	}
	keep := func(instance, name string, when int64) (*snapshotpb.Snapshot, error) {
		resp, err := c.Keep(r.ctx, &snapshotpb.KeepRequest{InstanceName: instance, Snapshot: &snapshotpb.Snapshot{
			Name: name, Root: wireOf(data), Time: &timestamppb.Timestamp{Seconds: when},
		}})
		return resp.GetSnapshot(), err
	}
	_, err = keep("", "work", 1)
	wantStatus(t, err, codes.FailedPrecondition, wireOf(data).Hash)
	for _, b := range [][]byte{data, file} {
		_, err = keep("", "work", 1)
		wantStatus(t, err, codes.FailedPrecondition)
		if err := blob.Put(r.ctx, store, digest.SHA256.Of(b), b); err != nil {
			t.Fatal(err)
		}
	}
	var made []*snapshotpb.Snapshot
	for _, one := range []struct {
		instance, name string
		when           int64
	}{{"", "work", 2_000_000_000}, {"", "work", 1_000_000_000}, {"", "works", 3}, {"in/stance", "work", 4}} {
		s, err := keep(one.instance, one.name, one.when)
		if err != nil || s.KeptBlobs != 2 || s.KeptBytes != int64(len(data)+len(file)) {
			t.Fatalf("Keep = %v, %v, want two blobs", s, err)
		}
		made = append(made, s)
	}
	for _, tt := range []struct {
		instance, name string
		want           []string
	}{
		{"", "work", []string{made[1].Id, made[0].Id}}, {"", "", []string{made[1].Id, made[0].Id, made[2].Id}},
		{"in/stance", "", []string{made[3].Id}}, {"in", "", nil}, {"", "wor", nil},
	} {
		if got := listed(t, c, tt.instance, tt.name); !slices.Equal(got, tt.want) {
			t.Errorf("List(%q, %q) = %q, want %q", tt.instance, tt.name, got, tt.want)
		}
	}
	for i, s := range made {
		store.Evict()
		if _, err := blob.Get(r.ctx, store, digest.SHA256.Of(file)); err != nil {
			t.Fatalf("with %d of %d snapshots released: %v", i, len(made), err)
		}
		instance := []string{"", "", "", "in/stance"}[i]
		for range 2 {
			if _, err := c.Release(r.ctx, &snapshotpb.ReleaseRequest{InstanceName: instance, Name: s.Name, Id: s.Id}); err != nil {
				t.Fatal(err)
			}
		}
	}
	store.Evict()
	if _, err := blob.Get(r.ctx, store, digest.SHA256.Of(file)); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("after all were released: %v, want ErrNotFound", err)
	}
}

func TestSnapshotErrors(t *testing.T) {
	r := newRig(t, keeping, func(o *Options) { withChunks(t)(o) })
	c := snapshotpb.NewSnapshotsClient(r.conn)
	for says, s := range map[string]*snapshotpb.Snapshot{
		"snapshot.name":            {Name: "a b", Root: wireOf(nil)},
		"snapshot.root: missing":   {Name: "a"},
		"digest_function":          {Name: "a", Root: wireOf(nil), DigestFunction: repb.DigestFunction_MD5},
		"snapshot.time":            {Name: "a", Root: wireOf(nil), Time: &timestamppb.Timestamp{Nanos: -1}},
		"snapshot.root.size_bytes": {Name: "a", Root: &repb.Digest{Hash: wireOf(nil).Hash, SizeBytes: -1}},
	} {
		_, err := c.Keep(r.ctx, &snapshotpb.KeepRequest{Snapshot: s})
		wantStatus(t, err, codes.InvalidArgument, says)
	}
	for _, id := range []string{"", "../x", "a/b"} {
		_, err := c.Release(r.ctx, &snapshotpb.ReleaseRequest{Name: "a", Id: id})
		wantStatus(t, err, codes.InvalidArgument, "id")
	}
}
