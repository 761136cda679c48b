package pbstest

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/url"

	"github.com/sarsen-build/sarsen/backup/pbs/format"
)

// A Restore is one that runs.
type Restore struct {
	*session
	Key *Key
}

// Restore begins a restore.
func (c *Client) Restore(ctx context.Context, s Snapshot, key *Key) (*Restore, error) {
	ss, err := c.upgrade(ctx, "/api2/json/reader", "proxmox-backup-reader-protocol-v1", s, nil)
	if err != nil {
		return nil, err
	}
	return &Restore{ss, key}, nil
}

// Download returns a file as it is stored.
func (r *Restore) Download(ctx context.Context, name string) (raw []byte, err error) {
	return raw, r.Call(ctx, "GET", "download", url.Values{"file-name": {name}}, nil, &raw)
}

// Chunk returns what a chunk stands for, verified.
func (r *Restore) Chunk(ctx context.Context, digest [32]byte) ([]byte, error) {
	var raw []byte
	if err := r.Call(ctx, "GET", "chunk", url.Values{"digest": {hex.EncodeToString(digest[:])}}, nil, &raw); err != nil {
		return nil, err
	}
	plain, err := r.Key.Decode(raw)
	if err == nil && r.Key.Digest(plain) != digest {
		err = fmt.Errorf("chunk %x has other bytes", digest)
	}
	return plain, err
}

// Archive returns what was backed up as an archive.
func (r *Restore) Archive(ctx context.Context, name string) ([]byte, error) {
	raw, err := r.Download(ctx, name)
	if err != nil {
		return nil, err
	}
	x, err := format.ParseIndex(raw)
	if err != nil {
		return nil, err
	}
	data := make([]byte, 0, x.Size)
	for i, d := range x.Digests {
		piece, err := r.Chunk(ctx, d)
		if err != nil {
			return nil, err
		}
		if begin, end := x.Bounds(i); uint64(len(piece)) != end-begin {
			return nil, fmt.Errorf("chunk %d of %s has %d bytes, want %d", i, name, len(piece), end-begin)
		}
		data = append(data, piece...)
	}
	return data, nil
}

// Blob returns what was backed up as a blob.
func (r *Restore) Blob(ctx context.Context, name string) ([]byte, error) {
	raw, err := r.Download(ctx, name)
	if err != nil {
		return nil, err
	}
	return r.Key.Decode(raw)
}

// Manifest returns the manifest, whose signature must be the key's if there is one.
func (r *Restore) Manifest(ctx context.Context) (*format.Manifest, error) {
	raw, err := r.Download(ctx, format.ManifestName)
	if err != nil {
		return nil, err
	}
	text, err := (*Key)(nil).Decode(raw)
	if err != nil {
		return nil, err
	}
	m, err := format.ParseManifest(text)
	if err != nil || r.Key == nil {
		return m, err
	}
	want, err := r.Key.sign(text)
	if err == nil && m.Signature != want {
		err = fmt.Errorf("the manifest's signature is %q, want %q", m.Signature, want)
	}
	return m, err
}
