package collect

import (
	"context"
	"fmt"
	"io"
	"os"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/upstream"
)

// Log stores what an action wrote to stdout or stderr, from the file's start to where it ends now, and
// returns its digest, and the bytes too if there are at most inline of them. Nobody may write to the file
// any more.
func Log(ctx context.Context, file *os.File, inline int64, f digest.Function, to blob.Batcher) (*repb.Digest, []byte, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, nil, err
	}
	size := info.Size()
	if size > smallFile {
		h := f.NewHash()
		if _, err := io.Copy(h, io.NewSectionReader(file, 0, size)); err != nil {
			return nil, nil, err
		}
		d := sum(f, h, size)
		err := again(ctx, func() error { return put(ctx, to, d, io.NewSectionReader(file, 0, size)) })
		if err != nil {
			return nil, nil, fmt.Errorf("store a log: %w", err)
		}
		return upstream.ToProto(d), nil, nil
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(io.NewSectionReader(file, 0, size), data); err != nil {
		return nil, nil, fmt.Errorf("read a log: %w", err)
	}
	d := f.Of(data)
	if size > 0 {
		err := again(ctx, func() error { return to.PutAll(ctx, []digest.Digest{d}, [][]byte{data})[0] })
		if err != nil {
			return nil, nil, fmt.Errorf("store a log: %w", err)
		}
	}
	if size == 0 || size > inline {
		data = nil
	}
	return upstream.ToProto(d), data, nil
}
