package pbstest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strconv"

	"github.com/sarsen-build/sarsen/backup/pbs/format"
)

// A Backup is one that runs.
type Backup struct {
	*session
	Key *Key
	// Sent counts the chunks that were uploaded, and Reused those that the server had.
	Sent, Reused int

	snapshot Snapshot
	known    map[[32]byte]bool
	files    []format.ManifestFile
}

// Backup begins a backup.
func (c *Client) Backup(ctx context.Context, s Snapshot, key *Key, more url.Values) (*Backup, error) {
	ss, err := c.upgrade(ctx, "/api2/json/backup", "proxmox-backup-protocol-v1", s, more)
	if err != nil {
		return nil, err
	}
	return &Backup{session: ss, Key: key, snapshot: s, known: map[[32]byte]bool{}}, nil
}

// Previous makes the chunks of the previous snapshot's archive known, and returns its index.
func (b *Backup) Previous(ctx context.Context, name string) (*format.Index, error) {
	var raw []byte
	if err := b.Call(ctx, "GET", "previous", url.Values{"archive-name": {name}}, nil, &raw); err != nil {
		return nil, err
	}
	x, err := format.ParseIndex(raw)
	if err != nil {
		return nil, err
	}
	for _, d := range x.Digests {
		b.known[d] = true
	}
	return x, nil
}

// Open opens a writer and returns its number.
func (b *Backup) Open(ctx context.Context, path string, params map[string]any) (id int, err error) {
	return id, b.Call(ctx, "POST", path, nil, encode(params), &id)
}

// Chunk uploads a chunk, unless the server said that it has it, and returns its digest.
func (b *Backup) Chunk(ctx context.Context, kind string, id int, plain []byte) ([32]byte, error) {
	d := b.Key.Digest(plain)
	if b.known[d] {
		b.Reused++
		return d, nil
	}
	if err := b.Upload(ctx, kind, id, d, len(plain), b.Key.Encode(plain)); err != nil {
		return d, err
	}
	b.known[d] = true
	b.Sent++
	return d, nil
}

// Upload uploads a chunk as it is told.
func (b *Backup) Upload(ctx context.Context, kind string, id int, digest [32]byte, size int, blob []byte) error {
	return b.UploadFrom(ctx, kind, id, digest, size, len(blob), bytes.NewReader(blob))
}

// UploadFrom uploads a chunk of which encoded bytes come as they come.
func (b *Backup) UploadFrom(ctx context.Context, kind string, id int, digest [32]byte, size, encoded int, blob io.Reader) error {
	q := url.Values{"wid": {strconv.Itoa(id)}, "digest": {hex.EncodeToString(digest[:])}, "size": {strconv.Itoa(size)}, "encoded-size": {strconv.Itoa(encoded)}}
	var answer string
	if err := b.CallFrom(ctx, "POST", kind+"_chunk", q, blob, &answer); err != nil {
		return err
	}
	if want := hex.EncodeToString(digest[:]); answer != want {
		return fmt.Errorf("the answer to chunk %s is %q", want, answer)
	}
	return nil
}

// Append adds chunks to an index.
func (b *Backup) Append(ctx context.Context, kind string, id int, digests [][32]byte, offsets []uint64) error {
	texts := make([]string, len(digests))
	for i, d := range digests {
		texts[i] = hex.EncodeToString(d[:])
	}
	return b.Call(ctx, "PUT", kind+"_index", nil, encode(map[string]any{"wid": id, "digest-list": texts, "offset-list": offsets}), nil)
}

// CloseIndex ends an index. count is how many chunks were appended.
func (b *Backup) CloseIndex(ctx context.Context, kind string, id, count int, name string, x *format.Index) error {
	return b.closeIndex(ctx, kind, id, count, x.Size, name, x)
}

func (b *Backup) closeIndex(ctx context.Context, kind string, id, count int, size uint64, name string, x *format.Index) error {
	csum := x.Csum()
	text := hex.EncodeToString(csum[:])
	err := b.Call(ctx, "POST", kind+"_close", nil, encode(map[string]any{"wid": id, "chunk-count": count, "size": size, "csum": text}), nil)
	if err == nil {
		b.files = append(b.files, format.ManifestFile{Filename: name, CryptMode: b.mode(), Size: x.Size, Csum: text})
	}
	return err
}

func (b *Backup) mode() string {
	if b.Key != nil {
		return "encrypt"
	}
	return "none"
}

// Dynamic backs data up as a dynamic archive.
func (b *Backup) Dynamic(ctx context.Context, name string, data []byte) error {
	id, err := b.Open(ctx, "dynamic_index", map[string]any{"archive-name": name})
	if err != nil {
		return err
	}
	x := &format.Index{}
	for _, piece := range Cut(data) {
		d, err := b.Chunk(ctx, "dynamic", id, piece)
		if err != nil {
			return err
		}
		if err := b.Append(ctx, "dynamic", id, [][32]byte{d}, []uint64{x.Size}); err != nil {
			return err
		}
		x.Size += uint64(len(piece))
		x.Ends, x.Digests = append(x.Ends, x.Size), append(x.Digests, d)
	}
	return b.CloseIndex(ctx, "dynamic", id, len(x.Digests), name, x)
}

// Fixed backs an image up. With reuse, it sends only what differs from that, which must be the previous image.
func (b *Backup) Fixed(ctx context.Context, name string, image, reuse []byte) error {
	params := map[string]any{"archive-name": name, "size": len(image)}
	if reuse != nil {
		old := b.image(reuse)
		csum := old.Csum()
		params["reuse-csum"] = hex.EncodeToString(csum[:])
	}
	id, err := b.Open(ctx, "fixed_index", params)
	if err != nil {
		return err
	}
	x, count, sent := b.image(image), 0, uint64(0)
	for i := range x.Digests {
		begin, end := x.Bounds(i)
		if reuse != nil && b.Key.Digest(reuse[begin:end]) == x.Digests[i] {
			continue
		}
		if _, err := b.Chunk(ctx, "fixed", id, image[begin:end]); err != nil {
			return err
		}
		if err := b.Append(ctx, "fixed", id, x.Digests[i:i+1], []uint64{begin}); err != nil {
			return err
		}
		count++
		sent += end - begin
	}
	if reuse == nil {
		sent = x.Size
	}
	// Of an image that began as a copy, qemu says how much it sent.
	return b.closeIndex(ctx, "fixed", id, count, sent, name, x)
}

// image returns the index of an image.
func (b *Backup) image(image []byte) *format.Index {
	x := &format.Index{Fixed: true, Size: uint64(len(image)), ChunkSize: format.FixedChunk}
	x.Digests = make([][32]byte, format.Chunks(x.Size, x.ChunkSize))
	for i := range x.Digests {
		begin, end := x.Bounds(i)
		x.Digests[i] = b.Key.Digest(image[begin:end])
	}
	return x
}

// Blob uploads a file.
func (b *Backup) Blob(ctx context.Context, name string, data []byte) error {
	blob := b.Key.Encode(data)
	sum := sha256.Sum256(blob)
	b.files = append(b.files, format.ManifestFile{Filename: name, CryptMode: b.mode(), Size: uint64(len(blob)), Csum: hex.EncodeToString(sum[:])})
	return b.blob(ctx, name, blob)
}

func (b *Backup) blob(ctx context.Context, name string, blob []byte) error {
	return b.Call(ctx, "POST", "blob", url.Values{"file-name": {name}, "encoded-size": {strconv.Itoa(len(blob))}}, blob, nil)
}

// Manifest uploads the manifest of all that was sent.
func (b *Backup) Manifest(ctx context.Context) error {
	m := map[string]any{"backup-type": b.snapshot.Type, "backup-id": b.snapshot.ID, "backup-time": b.snapshot.Time, "files": b.files}
	if b.Key != nil {
		signature, err := b.Key.sign(encode(m))
		if err != nil {
			return err
		}
		m["signature"] = signature
	}
	return b.blob(ctx, format.ManifestName, format.EncodeBlob(encode(m)))
}

// Finish uploads the manifest and ends the backup.
func (b *Backup) Finish(ctx context.Context) error {
	if err := b.Manifest(ctx); err != nil {
		return err
	}
	return b.Call(ctx, "POST", "finish", nil, nil, nil)
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // a test's own value
	}
	return b
}

// Cut cuts data where its contents say so, into pieces of 2 to 32 KiB, so that what was moved is found again.
func Cut(data []byte) (pieces [][]byte) {
	const least, most, window, every = 2 << 10, 32 << 10, 32, 8 << 10
	sum, begin := uint32(0), 0
	for i, c := range data {
		sum += uint32(c) * 2654435761
		if i >= window {
			sum -= uint32(data[i-window]) * 2654435761
		}
		if n := i + 1 - begin; n >= least && (sum>>8)%every == 0 || n == most {
			pieces, begin = append(pieces, data[begin:i+1]), i+1
		}
	}
	if begin < len(data) {
		pieces = append(pieces, data[begin:])
	}
	return pieces
}
