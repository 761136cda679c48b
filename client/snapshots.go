package client

import (
	"context"
	"errors"
	"io"

	"github.com/sarsen-build/sarsen/internal/snapshotpb"
	"github.com/sarsen-build/sarsen/upstream"
)

// Store returns the server as a Store, whose batches move many small blobs. It tries nothing again. It ends with c.
func (c *Client) Store() *upstream.Store {
	return upstream.New(c.conn, c.instance, upstream.Options{Retry: -1})
}

// KeepSnapshot makes the server hold a tree that it has, and returns what it made of s.
func (c *Client) KeepSnapshot(ctx context.Context, s *snapshotpb.Snapshot) (*snapshotpb.Snapshot, error) {
	answer, err := snapshotpb.NewSnapshotsClient(c.conn).Keep(ctx, &snapshotpb.KeepRequest{InstanceName: c.instance, Snapshot: s})
	return answer.GetSnapshot(), c.fail("keep a snapshot of "+s.GetName(), err)
}

// Snapshots returns what the server keeps, of one name or of all, by name and time.
func (c *Client) Snapshots(ctx context.Context, name string) ([]*snapshotpb.Snapshot, error) {
	const op = "list snapshots"
	stream, err := snapshotpb.NewSnapshotsClient(c.conn).List(ctx, &snapshotpb.ListRequest{InstanceName: c.instance, Name: name})
	if err != nil {
		return nil, c.fail(op, err)
	}
	var all []*snapshotpb.Snapshot
	for {
		s, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, c.fail(op, err)
		}
		all = append(all, s)
	}
}

// ReleaseSnapshot makes the server let go of a snapshot.
func (c *Client) ReleaseSnapshot(ctx context.Context, name, id string) error {
	_, err := snapshotpb.NewSnapshotsClient(c.conn).Release(ctx, &snapshotpb.ReleaseRequest{InstanceName: c.instance, Name: name, Id: id})
	return c.fail("release snapshot "+id, err)
}
