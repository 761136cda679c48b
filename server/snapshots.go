package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/snapshotpb"
)

// snapshots is the Snapshots service: each snapshot is a root, whose value is the message.
type snapshots struct {
	*Server
	keeper blob.Keeper
	snapshotpb.UnimplementedSnapshotsServer
}

// snapshotPrefix begins the names of the roots of one instance, or of one series of it. The instance that has no name, and
// one that is called "..", are a part of the name as any other: a medium whose names are paths would drop them.
func snapshotPrefix(instance, name string) string {
	prefix := "snapshot/i" + url.PathEscape(instance) + "/"
	if name != "" {
		prefix += name + "/"
	}
	return prefix
}

// checkSeries refuses what can't be the name of a series.
func checkSeries(field, name string) error {
	letters := "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	if name == "" || len(name) > 128 || name[0] == '.' || name[0] == '-' || strings.Trim(name, letters) != "" {
		return invalid("%s: %.40q is no name; it has letters, digits, dots, dashes and underscores, and begins with neither dot nor dash", field, name)
	}
	return nil
}

// Keep holds a whole tree.
func (s *snapshots) Keep(ctx context.Context, req *snapshotpb.KeepRequest) (*snapshotpb.KeepResponse, error) {
	snap := req.GetSnapshot()
	if err := checkSeries("snapshot.name", snap.GetName()); err != nil {
		return nil, err
	}
	function, err := functionOf(snap.GetDigestFunction())
	if err != nil {
		return nil, inField("snapshot", err)
	}
	root, err := digestOf(function, "snapshot.root", snap.GetRoot())
	if err != nil {
		return nil, err
	}
	blobs, err := s.actions.Closure(ctx, action.References{Function: function, Directories: []digest.Digest{root}})
	if err != nil {
		return nil, fmt.Errorf("the snapshot needs %w", err)
	}
	snap = proto.CloneOf(snap)
	if snap.Time == nil {
		snap.Time = timestamppb.Now()
	}
	if err := snap.Time.CheckValid(); err != nil {
		return nil, invalid("snapshot.time: %v", err)
	}
	// The time comes first, so that a listing by name is one by time.
	snap.Id = snap.Time.AsTime().Format("20060102T150405Z") + "-" + strings.ToLower(rand.Text()[:8])
	snap.KeptBlobs, snap.KeptBytes = int64(blobs.Len()), 0
	for _, d := range blobs.List() {
		snap.KeptBytes += d.Size
	}
	value, err := proto.Marshal(snap)
	if err != nil {
		return nil, err
	}
	err = s.keeper.Keep(ctx, snapshotPrefix(req.GetInstanceName(), snap.Name)+snap.Id, value, blobs)
	if errors.As(err, new(*blob.MissingError)) {
		err = fmt.Errorf("the snapshot needs %w", err)
	}
	if err != nil {
		return nil, err
	}
	return &snapshotpb.KeepResponse{Snapshot: snap}, nil
}

// List sends what is kept.
func (s *snapshots) List(req *snapshotpb.ListRequest, stream grpc.ServerStreamingServer[snapshotpb.Snapshot]) error {
	if name := req.GetName(); name != "" {
		if err := checkSeries("name", name); err != nil {
			return err
		}
	}
	for r, err := range s.keeper.Kept(stream.Context(), snapshotPrefix(req.GetInstanceName(), req.GetName())) {
		if err != nil {
			return err
		}
		snap := new(snapshotpb.Snapshot)
		if err := proto.Unmarshal(r.Value, snap); err != nil {
			return fmt.Errorf("%w: root %q holds no snapshot: %v", blob.ErrCorrupt, r.Name, err)
		}
		if err := stream.Send(snap); err != nil {
			return err
		}
	}
	return nil
}

// releaseWithin bounds a release, which goes on when its client leaves.
const releaseWithin = time.Minute

// Release lets go of one.
func (s *snapshots) Release(ctx context.Context, req *snapshotpb.ReleaseRequest) (*snapshotpb.ReleaseResponse, error) {
	if err := checkSeries("name", req.GetName()); err != nil {
		return nil, err
	}
	if err := checkSeries("id", req.GetId()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseWithin)
	defer cancel()
	return new(snapshotpb.ReleaseResponse), s.keeper.Release(ctx, snapshotPrefix(req.GetInstanceName(), req.GetName())+req.GetId())
}
