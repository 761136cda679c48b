package collect_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/worker/collect"
)

// A rig is a directory in which an action ran, and a store.
type rig struct {
	t     testing.TB
	dir   string
	root  *os.Root
	store *model.Store
}

// newRig makes a root with what entries say: "name/" is a directory, "name -> target" a link,
// "name* content" an executable and "name content" another file.
func newRig(t testing.TB, entries ...string) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), store: model.New(time.Hour)}
	var err error
	if r.root, err = os.OpenRoot(r.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.root.Close() })
	r.make(entries...)
	return r
}

func (r *rig) make(entries ...string) {
	r.t.Helper()
	for _, entry := range entries {
		name, content, _ := strings.Cut(entry, " ")
		target, link := strings.CutPrefix(content, "-> ")
		at := filepath.Join(r.dir, strings.TrimSuffix(name, "*"))
		err := os.MkdirAll(filepath.Dir(at), 0o755)
		switch {
		case err != nil:
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(at, 0o755)
		case link:
			err = os.Symlink(target, at)
		case strings.HasSuffix(name, "*"):
			err = os.WriteFile(at, []byte(content), 0o755)
		default:
			err = os.WriteFile(at, []byte(content), 0o644)
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rig) collect(command *repb.Command, o collect.Options) (*repb.ActionResult, error) {
	r.t.Helper()
	return collect.Collect(r.t.Context(), r.root, command, digest.SHA256, r.store, o)
}

// read returns a blob of the store.
func (r *rig) read(p *repb.Digest) []byte {
	r.t.Helper()
	d, err := digest.New(digest.SHA256, p.GetHash(), p.GetSizeBytes())
	if err != nil {
		r.t.Fatal(err)
	}
	data, err := blob.Get(r.t.Context(), r.store, d)
	if err != nil {
		r.t.Fatal(err)
	}
	return data
}

func (r *rig) message(p *repb.Digest, m proto.Message) {
	r.t.Helper()
	if err := proto.Unmarshal(r.read(p), m); err != nil {
		r.t.Fatal(err)
	}
}

func toProto(d digest.Digest) *repb.Digest {
	return &repb.Digest{Hash: d.Hex(), SizeBytes: d.Size}
}

func of(content string) *repb.Digest { return toProto(digest.SHA256.Of([]byte(content))) }

// digestOf returns the digest of a message as it is stored.
func digestOf(t testing.TB, m proto.Message) *repb.Digest {
	t.Helper()
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return toProto(digest.SHA256.Of(data))
}

// want compares two messages.
func want(t testing.TB, got, want proto.Message) {
	t.Helper()
	if !proto.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}
