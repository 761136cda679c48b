package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sarsen-build/sarsen/digest"
)

const (
	methodGetTree = "/build.bazel.remote.execution.v2.ContentAddressableStorage/GetTree"

	treeDirectories = 500
	treeFiles       = 10 // in each directory
	treeFanOut      = 8  // directories in a directory
)

var treeStream = &grpc.StreamDesc{StreamName: "GetTree", ServerStreams: true}

// newTree makes the Directory messages of a tree, its root first. Directory i holds directories
// 8i+1 to 8i+8. The files are named and exist nowhere, since nobody asks for them.
func (s *session) newTree() []payload {
	list := make([]payload, treeDirectories)
	for i := len(list) - 1; i >= 0; i-- {
		directory := new(repb.Directory)
		for k, d := range s.absent(treeFiles) {
			directory.Files = append(directory.Files, &repb.FileNode{Name: fmt.Sprintf("file%02d.c", k), Digest: wire(d), IsExecutable: k == 0})
		}
		for child := treeFanOut*i + 1; child <= treeFanOut*i+treeFanOut && child < len(list); child++ {
			directory.Directories = append(directory.Directories, &repb.DirectoryNode{
				Name: fmt.Sprintf("directory%04d", child), Digest: wire(list[child].digest),
			})
		}
		list[i] = newPayload(encode(directory), nil)
	}
	return list
}

func getTree(ctx context.Context, s *session, n int) (call, error) {
	tree := s.newTree()
	if err := s.upload(ctx, tree); err != nil {
		return nil, err
	}
	want := make(map[digest.Digest]bool, len(tree))
	for i := range tree {
		want[tree[i].digest] = true
	}
	request := encoded(encode(&repb.GetTreeRequest{InstanceName: s.instance, RootDigest: wire(tree[0].digest), DigestFunction: repb.DigestFunction_SHA256}))
	// An answer that was checked by hashing, to compare the next ones with.
	var checked atomic.Pointer[[]byte]
	return func(ctx context.Context, w *worker, _ int) (load, error) {
		if err := w.getTree(ctx, request); err != nil {
			return load{}, err
		}
		done := load{treeDirectories, int64(len(w.scratch))}
		if last := checked.Load(); last != nil && bytes.Equal(*last, w.scratch) {
			return done, nil
		}
		if err := checkTree(w.scratch, want); err != nil {
			return load{}, err
		}
		answer := bytes.Clone(w.scratch)
		checked.Store(&answer)
		return done, nil
	}, nil
}

// getTree leaves all directories of the tree in w.scratch, each an encoded field 1.
func (w *worker) getTree(ctx context.Context, request *message) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := w.ask(ctx, treeStream, methodGetTree, request)
	if err != nil {
		return err
	}
	w.scratch = w.scratch[:0]
	for {
		err := stream.RecvMsg(&w.answer)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		err = eachField(w.answer.buffer, func(number protowire.Number, value []byte, _ uint64) error {
			switch number {
			case 1:
				w.scratch = protowire.AppendTag(w.scratch, 1, protowire.BytesType)
				w.scratch = protowire.AppendBytes(w.scratch, value)
			case 2:
				if len(value) > 0 && len(w.scratch) == 0 {
					return errors.New("a page without directories came")
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}

// ask sends the one request of a call that is answered by a stream.
func (w *worker) ask(ctx context.Context, desc *grpc.StreamDesc, method string, request *message) (grpc.ClientStream, error) {
	stream, err := w.conn.NewStream(ctx, desc, method)
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(request); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return stream, stream.CloseSend()
}

// checkTree checks that an answer holds exactly the directories of want, each once.
func checkTree(answer []byte, want map[digest.Digest]bool) error {
	seen := make(map[digest.Digest]bool, len(want))
	err := eachField(answer, func(_ protowire.Number, value []byte, _ uint64) error {
		d := digest.SHA256.Of(value)
		if !want[d] {
			return fmt.Errorf("directory %s came, which is not in the tree", d)
		}
		if seen[d] {
			return fmt.Errorf("directory %s came twice", d)
		}
		seen[d] = true
		return nil
	})
	if err == nil && len(seen) != len(want) {
		err = fmt.Errorf("%d of %d directories came", len(seen), len(want))
	}
	return err
}
