// Package snapshotpb is how snapshots are kept, listed and let go of on a server, made from snapshot.proto by
// `make generate`.
package snapshotpb
