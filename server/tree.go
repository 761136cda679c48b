package server

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/wire"
)

const (
	// maxDirectories bounds the distinct directories of one tree, of which the walk remembers the
	// digests: about 150 bytes each.
	maxDirectories = 1 << 20
	// A portion of a level is read at once; both bound the memory for it.
	portionCount = 4096
	portionBytes = 8 << 20
	// maxDirectory is the largest directory that fits into a message with a token, in bytes.
	maxDirectory = maxMessage - 128
)

// The field numbers of GetTreeResponse.
const (
	treeResponseDirectories = 1
	treeResponseToken       = 2
)

// GetTree sends the directories below a root, breadth first and in the order in which directories
// name their children, each distinct one once. It sends page after page until all are sent; the token
// of each page is for a client whose stream breaks after it.
func (c *cas) GetTree(req *repb.GetTreeRequest, stream repb.ContentAddressableStorage_GetTreeServer) error {
	function, err := functionOf(req.GetDigestFunction())
	if err != nil {
		return err
	}
	root, err := digestOf(function, "root_digest", req.GetRootDigest())
	if err != nil {
		return err
	}
	if req.GetPageSize() < 0 {
		return invalid("page_size: %d is negative", req.GetPageSize())
	}
	out := &pages{server: c.Server, stream: stream, root: root, limit: int(req.GetPageSize())}
	if token := req.GetPageToken(); token != "" {
		if out.after, err = parseToken(token, root); err != nil {
			return err
		}
		out.skipping = true
	}
	if err := c.walk(stream.Context(), root, out.add); err != nil {
		return err
	}
	return out.end()
}

// walk calls visit for every distinct directory below root that is present, root first, with its
// bytes.
func (c *cas) walk(ctx context.Context, root digest.Digest, visit func(digest.Digest, []byte) error) error {
	seen := map[digest.Digest]struct{}{root: {}}
	var next []digest.Digest
	found := func(d digest.Digest) error {
		if _, ok := seen[d]; ok {
			return nil
		}
		if len(seen) == maxDirectories {
			return status.Errorf(codes.ResourceExhausted, "root_digest: the tree has more than %d distinct directories", maxDirectories)
		}
		seen[d] = struct{}{}
		next = append(next, d)
		return nil
	}
	for level := []digest.Digest{root}; len(level) > 0; level, next = next, nil {
		for len(level) > 0 {
			n := portion(level)
			data, errs := c.readDirectories(ctx, level[:n])
			for i, d := range level[:n] {
				err := errs[i]
				if errors.Is(err, blob.ErrNotFound) && d != root {
					continue
				}
				if err == nil {
					err = children(root.Function, data[i], found)
				}
				if err == nil {
					err = visit(d, data[i])
				}
				if err != nil {
					return inTree(root, d, err)
				}
			}
			level = level[n:]
		}
	}
	return nil
}

// portion returns how many directories of the level to read at once, at least 1. What is too large
// to send is a portion of its own.
func portion(level []digest.Digest) int {
	var bytes int64
	for i, d := range level[:min(len(level), portionCount)] {
		if d.Size > maxDirectory {
			return max(i, 1)
		}
		if bytes += d.Size; bytes > portionBytes {
			return i
		}
	}
	return min(len(level), portionCount)
}

// readDirectories reads directories whole. One that is too large to send isn't read.
func (c *cas) readDirectories(ctx context.Context, ds []digest.Digest) ([][]byte, []error) {
	if ds[0].Size <= maxDirectory {
		return c.store.GetAll(ctx, ds)
	}
	present, err := c.has(ctx, ds[0])
	switch {
	case err != nil:
	case present:
		err = status.Errorf(codes.ResourceExhausted, "the directory's %d bytes don't fit into a message; read it with ByteStream", ds[0].Size)
	default:
		err = &blob.Error{Op: "open", Digest: ds[0], Err: blob.ErrNotFound}
	}
	return [][]byte{nil}, []error{err}
}

// inTree says which directory of the tree err is about.
func inTree(root, d digest.Digest, err error) error {
	if d == root {
		return inField("root_digest", err)
	}
	return inField(fmt.Sprintf("root_digest: directory %s below it", d), err)
}

// children calls found for each child of the Directory in data, which it checks as far as the nodes
// go. It is read from the wire because the bytes are sent on as they are: clients tell directories
// apart by hashing them, and to decode and encode one again need not give the same bytes.
func children(function digest.Function, data []byte, found func(digest.Digest) error) error {
	i := -1
	err := wire.Nodes(data, func(kind protowire.Number, n wire.Node) error {
		if kind != wire.DirectoryDirectories {
			return nil
		}
		i++
		d, wrong := parseDigest(function, string(n.Hash), n.Size)
		if wrong != nil {
			return inField(fmt.Sprintf("directories[%d].digest.%s (of %q)", i, wrong.field, clip(string(n.Name))), wrong.err)
		}
		return found(d)
	})
	if errors.Is(err, wire.ErrMalformed) {
		return invalid("the blob is not a Directory message")
	}
	return err
}

// pages collects directories and sends them in messages.
type pages struct {
	server   *Server
	stream   grpc.ServerStream
	root     digest.Digest
	limit    int           // directories in a page; 0 is as many as fit
	after    digest.Digest // the last directory that the client has
	skipping bool          // until after has passed

	page treePage
	last digest.Digest // in page
}

// add adds a directory, and sends the page before it if it is full.
func (p *pages) add(d digest.Digest, data []byte) error {
	if p.skipping {
		p.skipping = d != p.after
		return nil
	}
	size := 1 + protowire.SizeBytes(len(data))
	full := len(p.page.directories) == p.limit && p.limit > 0
	if len(p.page.directories) > 0 && (full || p.page.size+size > maxDirectory) {
		p.page.token = tokenAfter(p.root, p.last)
		if err := p.send(); err != nil {
			return err
		}
	}
	p.page.directories = append(p.page.directories, data)
	p.page.size += size
	p.last = d
	return nil
}

func (p *pages) send() error {
	err := p.stream.SendMsg(&p.page)
	p.server.metrics.sent.add(p.page.size, false)
	p.page = treePage{directories: p.page.directories[:0]}
	return err
}

// end sends the last page, which has no token.
func (p *pages) end() error {
	if p.skipping {
		return invalid("page_token: the directory after which to go on is not in the tree any more; start again without a token")
	}
	return p.send()
}

// A treePage is a GetTreeResponse whose directories are sent as they were stored.
type treePage struct {
	directories [][]byte
	size        int // bytes of the encoded directories
	token       string
}

func (m *treePage) marshal() mem.BufferSlice {
	data := buffers.Get(m.size + len(m.token) + 8)
	b := (*data)[:0]
	for _, directory := range m.directories {
		b = protowire.AppendTag(b, treeResponseDirectories, protowire.BytesType)
		b = protowire.AppendBytes(b, directory)
	}
	if m.token != "" {
		b = protowire.AppendTag(b, treeResponseToken, protowire.BytesType)
		b = protowire.AppendString(b, m.token)
	}
	*data = b
	return mem.BufferSlice{mem.NewBuffer(data, buffers)}
}

// A token says after which directory of which tree to go on, so any server that has the tree can.
// It holds its version, the start of the root's hash, and the directory's hash and size.
const (
	tokenVersion = 1
	tokenRoot    = 8
	tokenSize    = 1 + tokenRoot + 32 + 8
)

func tokenAfter(root, last digest.Digest) string {
	b := append(make([]byte, 0, tokenSize), tokenVersion)
	b = append(b, root.Hash[:tokenRoot]...)
	b = append(b, last.Hash[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(last.Size))
	return base64.RawURLEncoding.EncodeToString(b)
}

// parseToken returns the directory after which to go on in the tree below root.
func parseToken(token string, root digest.Digest) (digest.Digest, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) != tokenSize || b[0] != tokenVersion {
		return digest.Digest{}, invalid("page_token: %q is not a token of this server", clip(token))
	}
	rest := b[1:]
	if string(rest[:tokenRoot]) != string(root.Hash[:tokenRoot]) {
		return digest.Digest{}, invalid("page_token: it belongs to another root_digest than %s", root)
	}
	rest = rest[tokenRoot:]
	size := int64(binary.BigEndian.Uint64(rest[32:]))
	last, wrong := parseDigest(root.Function, digest.Digest{Hash: [32]byte(rest[:32])}.Hex(), size)
	if wrong != nil {
		return digest.Digest{}, invalid("page_token: %q is not a token of this server", clip(token))
	}
	return last, nil
}
