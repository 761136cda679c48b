package wire

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"testing"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestNodes(t *testing.T) {
	message := marshal(t, &repb.Directory{
		Files:          []*repb.FileNode{{Name: "f", Digest: &repb.Digest{Hash: "aa", SizeBytes: 7}, IsExecutable: true}},
		Directories:    []*repb.DirectoryNode{{Name: "d", Digest: &repb.Digest{Hash: "bb"}}, {Name: "none"}},
		Symlinks:       []*repb.SymlinkNode{{Name: "s", Target: "t"}},
		NodeProperties: &repb.NodeProperties{Properties: []*repb.NodeProperty{{Name: "n", Value: "v"}}},
	})
	var got []string
	err := Nodes(message, func(kind protowire.Number, n Node) error {
		got = append(got, fmt.Sprintf("%d %s %s %d", kind, n.Name, n.Hash, n.Size))
		return nil
	})
	want := "[1 f aa 7 2 d bb 0 2 none  0]"
	if fmt.Sprint(got) != want || err != nil {
		t.Errorf("Nodes = %v, %v, want %s", got, err, want)
	}
	for n := 1; n < len(message)-1; n += 3 {
		cut := append([]byte{0xff}, message[:n]...)
		if err := Nodes(cut, func(protowire.Number, Node) error { return nil }); !errors.Is(err, ErrMalformed) {
			t.Errorf("Nodes of junk = %v, want ErrMalformed", err)
		}
	}
}

func TestStreamBounds(t *testing.T) {
	message := marshal(t, &repb.Tree{Root: &repb.Directory{Files: []*repb.FileNode{{Name: "a long name"}}}})
	none := func(Field) error { return nil }
	if err := Stream(bufio.NewReader(bytes.NewReader(message)), 5, none); !errors.Is(err, ErrMalformed) {
		t.Errorf("Stream with a field over the limit = %v, want ErrMalformed", err)
	}
	if err := Stream(bufio.NewReader(bytes.NewReader(message[:len(message)-1])), 1000, none); !errors.Is(err, ErrMalformed) {
		t.Errorf("Stream of a cut message = %v, want ErrMalformed", err)
	}
	stop := errors.New("stop")
	if err := Stream(bufio.NewReader(bytes.NewReader(message)), 1000, func(Field) error { return stop }); err != stop {
		t.Errorf("Stream = %v, want the callback's error", err)
	}
}

// TestScanTakesNoMemory reads the message that made generated code take forty times its size: empty
// file nodes of two bytes each.
func TestScanTakesNoMemory(t *testing.T) {
	message := bytes.Repeat([]byte{DirectoryFiles<<3 | 2, 0}, 1<<20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n := 0
	if err := Nodes(message, func(protowire.Number, Node) error { n++; return nil }); err != nil || n != 1<<20 {
		t.Fatalf("Nodes = %d, %v", n, err)
	}
	runtime.ReadMemStats(&after)
	if live := int64(after.HeapSys) - int64(before.HeapSys); live > int64(8*len(message)) {
		t.Errorf("scanning %d bytes took %d from the system", len(message), live)
	}
}

// FuzzStream: Stream sees just the fields that Scan sees.
func FuzzStream(f *testing.F) {
	f.Add(marshal(f, &repb.Tree{Root: &repb.Directory{}, Children: []*repb.Directory{{Files: []*repb.FileNode{{Name: "x"}}}}}))
	f.Add([]byte{0x08, 0x01, 0x11, 1, 2, 3, 4, 5, 6, 7, 8, 0x1d, 1, 2, 3, 4})
	f.Add([]byte{0x0b, 0x0c})
	f.Fuzz(func(t *testing.T, message []byte) {
		var scanned, streamed []string
		note := func(into *[]string) func(Field) error {
			return func(f Field) error {
				if f.Type == protowire.BytesType {
					*into = append(*into, fmt.Sprintf("%d %x", f.Num, f.Bytes))
				}
				return nil
			}
		}
		scanErr := Scan(message, note(&scanned))
		streamErr := Stream(bufio.NewReader(bytes.NewReader(message)), 1<<20, note(&streamed))
		if scanErr == nil && streamErr == nil && fmt.Sprint(scanned) != fmt.Sprint(streamed) {
			t.Errorf("Scan saw %v, Stream %v", scanned, streamed)
		}
		if scanErr != nil && streamErr == nil {
			t.Errorf("Scan = %v, but Stream = nil", scanErr)
		}
	})
}
