package server

import (
	"encoding/base64"
	"fmt"
	"io"
	"slices"
	"testing"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/wire"
)

// A node is a directory of a test tree.
type node struct {
	name     string
	children []*node
	absent   bool // named by its parent, but not stored
	padding  int  // bytes of file names
}

// putTree stores n and all below it, and returns its digest.
func (r *rig) putTree(f digest.Function, n *node) *repb.Digest {
	r.t.Helper()
	d := &repb.Directory{Files: []*repb.FileNode{{Name: n.name + pad(n.padding), Digest: onWire(f.Of([]byte(n.name)))}}}
	for _, child := range n.children {
		d.Directories = append(d.Directories, &repb.DirectoryNode{Name: child.name, Digest: r.putTree(f, child)})
	}
	data, err := proto.Marshal(d)
	if err != nil {
		r.t.Fatal(err)
	}
	if n.absent {
		return onWire(f.Of(data))
	}
	return r.put(f, data)
}

func pad(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = 'x'
	}
	return string(b)
}

// getTree returns the pages of a tree.
func (r *rig) getTree(req *repb.GetTreeRequest) ([]*repb.GetTreeResponse, error) {
	stream, err := r.cas.GetTree(r.ctx, req)
	if err != nil {
		return nil, err
	}
	var pages []*repb.GetTreeResponse
	for {
		page, err := stream.Recv()
		if err == io.EOF {
			return pages, nil
		}
		if err != nil {
			return pages, err
		}
		pages = append(pages, page)
	}
}

// namesOf returns the names by which the directories in pages were made, in order.
func namesOf(pages []*repb.GetTreeResponse) []string {
	var names []string
	for _, page := range pages {
		for _, d := range page.GetDirectories() {
			name := ""
			if len(d.GetFiles()) > 0 {
				name = d.GetFiles()[0].GetName()
			}
			names = append(names, name)
		}
	}
	return names
}

func TestGetTree(t *testing.T) {
	shared := &node{name: "shared", children: []*node{{name: "deep"}}}
	for _, tt := range []struct {
		name string
		tree *node
		want []string
	}{
		{"one directory", &node{name: "root"}, []string{"root"}},
		{"breadth first, as directories name their children", &node{name: "root", children: []*node{
			{name: "b", children: []*node{{name: "b1"}, {name: "b2"}}}, {name: "a", children: []*node{{name: "a1"}}},
		}}, []string{"root", "b", "a", "b1", "b2", "a1"}},
		{"each distinct one once", &node{name: "root", children: []*node{
			shared, {name: "x", children: []*node{shared}}, shared,
		}}, []string{"root", "shared", "x", "deep"}},
		{"missing children left out, with all that only they lead to", &node{name: "root", children: []*node{
			{name: "a", absent: true, children: []*node{{name: "lost"}}}, {name: "b", children: []*node{{name: "b1", absent: true}, {name: "b2"}}},
		}}, []string{"root", "b", "b2"}},
	} {
		for _, f := range digest.Functions {
			r := newRig(t)
			root := r.putTree(f, tt.tree)
			for _, size := range []int32{0, 1, 2, 3, 1000} {
				req := &repb.GetTreeRequest{RootDigest: root, DigestFunction: repb.DigestFunction_Value(f), PageSize: size, InstanceName: "i"}
				pages, err := r.getTree(req)
				if err != nil {
					t.Fatalf("%s: %v", tt.name, err)
				}
				if got := namesOf(pages); !slices.Equal(got, tt.want) {
					t.Errorf("%s, page size %d: got %v, want %v", tt.name, size, got, tt.want)
				}
				checkPages(t, r, req, pages, tt.want)
			}
		}
	}
}

// checkPages checks the sizes and the tokens of pages, and that each token leads to what follows, on
// another server too.
func checkPages(t *testing.T, r *rig, req *repb.GetTreeRequest, pages []*repb.GetTreeResponse, want []string) {
	t.Helper()
	other := newRig(t, func(o *Options) { o.Store, o.Actions = r.store, r.server.actions })
	seen := 0
	for i, page := range pages {
		seen += len(page.GetDirectories())
		if n := len(page.GetDirectories()); req.GetPageSize() > 0 && n > int(req.GetPageSize()) {
			t.Errorf("page %d: got %d directories, want at most %d", i, n, req.GetPageSize())
		}
		if last := i == len(pages)-1; last != (page.GetNextPageToken() == "") {
			t.Errorf("page %d of %d: got token %q", i, len(pages), page.GetNextPageToken())
		}
		if page.GetNextPageToken() == "" {
			continue
		}
		again := proto.CloneOf(req)
		again.PageToken = page.GetNextPageToken()
		rest, err := other.getTree(again)
		if err != nil {
			t.Fatal(err)
		}
		if got := namesOf(rest); !slices.Equal(got, want[seen:]) {
			t.Errorf("after token of page %d: got %v, want %v", i, got, want[seen:])
		}
	}
}

// TestGetTreeEmpty checks the directory without anything, whose blob is never stored.
func TestGetTreeEmpty(t *testing.T) {
	r := newRig(t)
	pages, err := r.getTree(&repb.GetTreeRequest{RootDigest: onWire(digest.SHA256.Empty())})
	if err != nil || len(pages) != 1 || len(pages[0].GetDirectories()) != 1 {
		t.Fatalf("got %v, %v, want one empty directory", pages, err)
	}
	root := r.put(digest.SHA256, marshal(t, &repb.Directory{Directories: []*repb.DirectoryNode{{Name: "e", Digest: onWire(digest.SHA256.Empty())}}}))
	pages, err = r.getTree(&repb.GetTreeRequest{RootDigest: root})
	if err != nil || len(namesOf(pages)) != 2 {
		t.Errorf("got %v, %v, want two directories", pages, err)
	}
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestGetTreeBytes checks that a directory whose bytes are not what today's encoder would make still
// hashes to its digest at the client.
func TestGetTreeBytes(t *testing.T) {
	r := newRig(t)
	// A field of number 99, which no version of Directory has, before the known ones.
	data := append([]byte{0x9a, 0x06, 0x01, 'x'}, marshal(t, &repb.Directory{Files: []*repb.FileNode{{Name: "f", Digest: wireOf([]byte("f"))}}})...)
	root := r.put(digest.SHA256, data)
	pages, err := r.getTree(&repb.GetTreeRequest{RootDigest: root})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := pages[0].GetDirectories()[0].ProtoReflect().GetUnknown(), data[:4]; string(got) != string(want) {
		t.Errorf("unknown field: got %x, want %x", got, want)
	}
}

// TestGetTreeLarge checks that every message stays under the limit, in a tree of 10 MiB.
func TestGetTreeLarge(t *testing.T) {
	r := newRig(t)
	root := &node{name: "root"}
	want := []string{"root"}
	for i := range 100 {
		root.children = append(root.children, &node{name: fmt.Sprint(i), padding: 100 << 10})
		want = append(want, fmt.Sprint(i)+pad(100<<10))
	}
	pages, err := r.getTree(&repb.GetTreeRequest{RootDigest: r.putTree(digest.SHA256, root)})
	if err != nil {
		t.Fatal(err)
	}
	if got := namesOf(pages); !slices.Equal(got, want) {
		t.Errorf("got %d directories, want %d in order", len(got), len(want))
	}
	if len(pages) != 3 {
		t.Errorf("got %d pages, want 3 of nearly 4 MiB", len(pages))
	}
	for i, page := range pages {
		if n := proto.Size(page); n > maxMessage {
			t.Errorf("page %d: got %d bytes, want at most %d", i, n, maxMessage)
		}
	}
}

func TestGetTreeErrors(t *testing.T) {
	r := newRig(t)
	root := r.putTree(digest.SHA256, &node{name: "root", children: []*node{{name: "a"}, {name: "b"}}})
	other := r.putTree(digest.SHA256, &node{name: "other", children: []*node{{name: "a"}}})
	pages, err := r.getTree(&repb.GetTreeRequest{RootDigest: root, PageSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	token := pages[0].GetNextPageToken()
	raw, _ := base64.RawURLEncoding.DecodeString(token)
	raw[len(raw)-20] ^= 1
	nowhere := base64.RawURLEncoding.EncodeToString(raw)
	text := r.put(digest.SHA256, []byte("this is no Directory"))
	badFile := r.put(digest.SHA256, []byte{wire.DirectoryFiles<<3 | 2, 1, 0xff})
	badChild := r.put(digest.SHA256, marshal(t, &repb.Directory{Directories: []*repb.DirectoryNode{{Name: "child", Digest: &repb.Digest{Hash: "abc"}}}}))
	aboveText := r.put(digest.SHA256, marshal(t, &repb.Directory{Directories: []*repb.DirectoryNode{{Name: "child", Digest: text}}}))
	huge := r.put(digest.SHA256, marshal(t, &repb.Directory{Files: []*repb.FileNode{{Name: pad(5 << 20)}}}))
	hugeAbsent := &repb.Digest{Hash: hash1, SizeBytes: 1 << 40}
	aboveAbsent := r.put(digest.SHA256, marshal(t, &repb.Directory{Directories: []*repb.DirectoryNode{{Name: "child", Digest: hugeAbsent}}}))
	for _, tt := range []struct {
		name string
		req  *repb.GetTreeRequest
		want codes.Code
		text []string
	}{
		{"no root", &repb.GetTreeRequest{}, codes.InvalidArgument, []string{"root_digest: missing"}},
		{"malformed root", &repb.GetTreeRequest{RootDigest: &repb.Digest{Hash: "abc", SizeBytes: 1}}, codes.InvalidArgument, []string{"root_digest.hash: "}},
		{"function", &repb.GetTreeRequest{RootDigest: root, DigestFunction: repb.DigestFunction_VSO}, codes.InvalidArgument, []string{"digest_function: VSO"}},
		{"negative page size", &repb.GetTreeRequest{RootDigest: root, PageSize: -1}, codes.InvalidArgument, []string{"page_size: -1"}},
		{"missing root", &repb.GetTreeRequest{RootDigest: wireOf([]byte("nothing"))}, codes.NotFound, []string{"root_digest: "}},
		{"missing huge root", &repb.GetTreeRequest{RootDigest: hugeAbsent}, codes.NotFound, []string{"root_digest: "}},
		{"missing huge child", &repb.GetTreeRequest{RootDigest: aboveAbsent}, codes.OK, nil},
		{"token of no server", &repb.GetTreeRequest{RootDigest: root, PageToken: "nonsense"}, codes.InvalidArgument, []string{"page_token: \"nonsense\" is not a token"}},
		{"token of another root", &repb.GetTreeRequest{RootDigest: other, PageToken: token}, codes.InvalidArgument, []string{"page_token: it belongs to another root_digest"}},
		{"token of a directory that is not there", &repb.GetTreeRequest{RootDigest: root, PageToken: nowhere}, codes.InvalidArgument, []string{"page_token: "}},
		{"root is no Directory", &repb.GetTreeRequest{RootDigest: text}, codes.InvalidArgument, []string{"root_digest: ", "not a Directory"}},
		{"file node is malformed", &repb.GetTreeRequest{RootDigest: badFile}, codes.InvalidArgument, []string{"root_digest: ", "not a Directory"}},
		{"child's digest is malformed", &repb.GetTreeRequest{RootDigest: badChild}, codes.InvalidArgument, []string{"root_digest: ", "directories[0]", "\"child\"", "hash"}},
		{"child is no Directory", &repb.GetTreeRequest{RootDigest: aboveText}, codes.InvalidArgument, []string{"directory " + text.Hash, "not a Directory"}},
		{"directory too large to send", &repb.GetTreeRequest{RootDigest: huge}, codes.ResourceExhausted, []string{"root_digest: ", "ByteStream"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := r.getTree(tt.req)
			wantStatus(t, err, tt.want, tt.text...)
		})
	}
}

// FuzzPageToken checks that no token crashes, and that what is taken for one names a digest.
func FuzzPageToken(f *testing.F) {
	root := digest.SHA256.Of([]byte("root"))
	f.Add("")
	f.Add("nonsense")
	f.Add(tokenAfter(root, digest.SHA256.Of([]byte("last"))))
	f.Add(tokenAfter(root, digest.SHA256.Empty()))
	f.Add(tokenAfter(digest.SHA256.Of([]byte("other")), root))
	f.Fuzz(func(t *testing.T, token string) {
		last, err := parseToken(token, root)
		if err != nil {
			return
		}
		if got := tokenAfter(root, last); got != token {
			t.Errorf("got %q back, want %q", got, token)
		}
	})
}

// FuzzDirectory checks that no bytes crash the scan, and that it finds what the generated decoder does.
func FuzzDirectory(f *testing.F) {
	child := &repb.DirectoryNode{Name: "child", Digest: wireOf([]byte("child"))}
	for _, d := range []*repb.Directory{
		{}, {Directories: []*repb.DirectoryNode{child, child}}, {Files: []*repb.FileNode{{Name: "f", Digest: wireOf(nil)}}},
		{Symlinks: []*repb.SymlinkNode{{Name: "s", Target: "t"}}, Directories: []*repb.DirectoryNode{{Name: "no digest"}}},
	} {
		data, err := proto.Marshal(d)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("this is no Directory"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var got []string
		err := children(digest.SHA256, data, func(d digest.Digest) error {
			got = append(got, d.String())
			return nil
		})
		var directory repb.Directory
		if proto.Unmarshal(data, &directory) != nil || err != nil {
			return // the generated decoder is stricter about text, this one about digests
		}
		var want []string
		for _, child := range directory.GetDirectories() {
			want = append(want, fmt.Sprintf("%s/%d", child.GetDigest().GetHash(), child.GetDigest().GetSizeBytes()))
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}
