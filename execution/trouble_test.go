package execution

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

var errDisk = errors.New("disk trouble")

// troubled is an action cache of which some calls fail.
type troubled struct {
	Actions
	get, put, lease error
}

func (c *troubled) Get(ctx context.Context, k action.Key) (*repb.ActionResult, error) {
	if c.get != nil {
		return nil, c.get
	}
	return c.Actions.Get(ctx, k)
}

func (c *troubled) Put(ctx context.Context, k action.Key, result *repb.ActionResult) error {
	if c.put != nil {
		return c.put
	}
	return c.Actions.Put(ctx, k, result)
}

func (c *troubled) Lease(ctx context.Context, f digest.Function, result *repb.ActionResult) (digest.Set, error) {
	if c.lease != nil {
		return digest.Set{}, c.lease
	}
	return c.Actions.Lease(ctx, f, result)
}

// TestActionCacheFails runs actions though the action cache has trouble, and answers nothing that it could not check.
func TestActionCacheFails(t *testing.T) {
	for _, c := range []struct {
		cache troubled
		want  codes.Code
		tries int
	}{
		{troubled{get: errDisk, put: errDisk}, codes.OK, 1},
		{troubled{put: blob.ErrFull}, codes.OK, 1},
		{troubled{put: errDisk, lease: errDisk}, codes.Unavailable, 3},
		{troubled{put: &action.FieldError{Field: "output_files[0].digest", Err: ErrInvalid}}, codes.Internal, 3},
	} {
		t.Run(fmt.Sprint(c.cache.get, c.cache.put, c.cache.lease), func(t *testing.T) {
			cache := c.cache
			bubble(t, func(o *Options) { cache.Actions = o.Actions; o.Actions = &cache }, func(t *testing.T, r *rig) {
				h := r.worker("w", 1)
				w := r.execute(r.action("a", nil))
				for range c.tries {
					h.succeed(h.assigned())
				}
				if a := r.end(w); codes.Code(a.resp.Status.GetCode()) != c.want || (a.resp.Result != nil) != (c.want == codes.OK) {
					t.Errorf("got %v, want %v", a.resp, c.want)
				}
			})
		})
	}
}

// TestNoResult lets a worker say OK and nothing else.
func TestNoResult(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		h := r.worker("w", 1)
		w := r.execute(r.action("a", nil))
		for range 3 {
			h.Complete(h.assigned().ID, nil)
		}
		if a := r.end(w); a.resp.Status.GetCode() != int32(codes.Internal) {
			t.Errorf("got %v, want INTERNAL", a.resp)
		}
	})
}

// TestAdoptedUnknown lets a worker end an adopted action before it is known that its inputs are gone.
func TestAdoptedUnknown(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		k := action.Key{Action: digest.SHA256.Of([]byte("gone"))}
		h := r.connect(Registration{Name: "w", Session: "s", Slots: 1, Running: []Running{{ID: "x", Key: k}}})
		h.Complete("x", &repb.ExecuteResponse{Result: &repb.ActionResult{}})
		for _, i := range h.told() { // what is known of its inputs may come first
			if i.Kind != Cancel || i.ID != "x" {
				t.Errorf("the worker is told %v, want nothing, or that x is cancelled", i)
			}
		}
		if n := r.s.Stats(); n.Running+n.Completing > 0 {
			t.Errorf("left are %+v", n)
		}
	})
}

// TestInputTree leases a tree that is read in several portions, and that two actions share.
func TestInputTree(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		root := new(repb.Directory)
		for n := range 2*maxPortion + 1 {
			d := &repb.Directory{Files: []*repb.FileNode{{Name: "f", Digest: r.put([]byte(fmt.Sprint("file ", n)))}}}
			root.Directories = append(root.Directories, &repb.DirectoryNode{Name: fmt.Sprint(n), Digest: r.put(d)})
		}
		wide := r.put(root)
		one := r.action("one", func(a *repb.Action) { a.InputRootDigest = wide })
		two := r.action("two", func(a *repb.Action) {
			a.InputRootDigest = r.put(&repb.Directory{Directories: []*repb.DirectoryNode{{Name: "wide", Digest: wide}}})
		})
		r.execute(one)
		r.execute(two)
		r.check()
		if got, want := len(r.s.trees.nodes), 2*maxPortion+3; got != want {
			t.Errorf("%d directories are held, want %d", got, want)
		}
		time.Sleep(30 * time.Second)
		lost := digest.SHA256.Of([]byte("file 7"))
		r.store.Forget(lost) // it is leased
		if _, err := blob.Get(r.Context(), r.store, lost); err != nil {
			t.Errorf("InputsHeld: %v", err)
		}
		for name, d := range map[string]*repb.Digest{
			"larger than":     {Hash: strings.Repeat("a", 64), SizeBytes: maxDirectory + 1},
			"not a Directory": r.put(&repb.Directory{Files: []*repb.FileNode{{Name: "f", Digest: &repb.Digest{Hash: strings.Repeat("a", 64), SizeBytes: -1}}}}),
		} {
			k := r.action("bad", func(a *repb.Action) { a.InputRootDigest = d })
			_, err := r.s.Execute(r.Context(), Request{Key: k})
			if blameOf(err) != "action.input_root_digest" || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: got %v", name, err)
			}
		}
	})
}

// TestIllegalStep: a step that is not in the table is noticed, and what is done stays done.
func TestIllegalStep(t *testing.T) {
	strict = false
	defer func() { strict = true }()
	r := newRig(t, nil)
	for from, to := range map[State]State{Queued: Completing, Checking: Uploading, Done: Queued, Done - 1: Assigned} {
		task := &task{s: r.s, state: from}
		if got, want := task.to(to), from != Done; got != want || (task.state == to) != want {
			t.Errorf("from %s to %s: got %v and %s", from, to, got, task.state)
		}
	}
	if n := strings.Count(r.log.String(), "illegal step"); n != 4 {
		t.Errorf("%d errors in the log, want 4", n)
	}
}
