package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/server"
	"github.com/sarsen-build/sarsen/upstream"
)

// An inspected is a running server for the commands that look inside, and the store behind it.
type inspected struct {
	t      *testing.T
	store  *model.Store
	target string
}

func newInspected(t *testing.T) *inspected {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	store := model.New(time.Hour)
	s := server.New(server.Options{Store: store, Actions: action.New(store, store)})
	go s.Serve(l)
	t.Cleanup(func() { s.Stop(t.Context()) })
	return &inspected{t, store, "grpc://" + l.Addr().String()}
}

// run runs a command against the server and returns what it printed.
func (i *inspected) run(cmd *cobra.Command, args ...string) (string, error) {
	var out strings.Builder
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(append([]string{"--server", i.target}, args...))
	cmd.SetOut(&out)
	err := cmd.ExecuteContext(i.t.Context())
	return out.String(), err
}

func (i *inspected) put(data []byte) *repb.Digest {
	i.t.Helper()
	d := digest.SHA256.Of(data)
	if err := blob.Put(i.t.Context(), i.store, d, data); err != nil {
		i.t.Fatal(err)
	}
	return upstream.ToProto(d)
}

func (i *inspected) putMessage(m proto.Message) *repb.Digest {
	i.t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		i.t.Fatal(err)
	}
	return i.put(data)
}

func text(d *repb.Digest) string { return label(digest.SHA256, d) }

func absent(name string) *repb.Digest {
	d := digest.SHA256.Of([]byte(name))
	return upstream.ToProto(d)
}

func TestPutAndGet(t *testing.T) {
	i := newInspected(t)
	file := filepath.Join(t.TempDir(), "hello.txt")
	if err := os.WriteFile(file, []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"sha256": "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03/6",
		"blake3": "blake3/8e4c7c1b99dbfd50e7a95185fead5ee1448fa904a2fdd778eaf5f2dbfd629a99/6",
	} {
		for range 2 { // the second time it is there already
			got, err := i.run(newPutCommand(), "--digest-function", name, file)
			if err != nil || got != want+"  "+file+"\n" {
				t.Errorf("put: %q, %v, want %s", got, err, want)
			}
		}
		if got, err := i.run(newGetCommand(), want); err != nil || got != "hello\n" {
			t.Errorf("get: %q, %v", got, err)
		}
	}
	for _, bad := range [][]string{{"--digest-function", "md5", file}, {filepath.Dir(file)}, {file + ".absent"}} {
		if got, err := i.run(newPutCommand(), bad...); err == nil || got != "" {
			t.Errorf("put %v: %q, %v", bad, got, err)
		}
	}
	if _, err := i.run(newGetCommand(), text(absent("x"))); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("get of nothing: %v", err)
	}
}

func TestLs(t *testing.T) {
	i := newInspected(t)
	data := i.put([]byte("data"))
	d := i.putMessage(&repb.Directory{
		Files: []*repb.FileNode{
			{Name: "b.sh", Digest: data, IsExecutable: true},
			{Name: "c\x1b[2J", Digest: data},
		},
		Directories: []*repb.DirectoryNode{{Name: "a", Digest: absent("a")}},
		Symlinks:    []*repb.SymlinkNode{{Name: "link", Target: "../b.sh"}},
	})
	got, err := i.run(newLsCommand(), text(d))
	var lines []string
	for line := range strings.Lines(got) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	want := []string{
		"drwxr-xr-x - " + text(absent("a")) + " a/",
		"-rwxr-xr-x 4 " + text(data) + " b.sh",
		"-rw-r--r-- 4 " + text(data) + ` "c\x1b[2J"`,
		"lrwxrwxrwx - - link -> ../b.sh",
	}
	if err != nil || strings.Join(lines, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s\n%v", strings.Join(lines, "\n"), strings.Join(want, "\n"), err)
	}
}

func TestTree(t *testing.T) {
	i := newInspected(t)
	data := i.put([]byte("data"))
	leaf := i.putMessage(&repb.Directory{
		Files:    []*repb.FileNode{{Name: "f", Digest: data}},
		Symlinks: []*repb.SymlinkNode{{Name: "l", Target: "f"}},
	})
	root := i.putMessage(&repb.Directory{
		Files:       []*repb.FileNode{{Name: "main.c", Digest: data}},
		Directories: []*repb.DirectoryNode{{Name: "lib", Digest: leaf}},
	})
	got, err := i.run(newTreeCommand(), text(root))
	want := "lib/\n  f\n  l -> f\nmain.c\n2 directories, 2 files, 1 symbolic link, 8 B\n"
	if err != nil || got != want {
		t.Errorf("got:\n%s\nwant:\n%s\n%v", got, want, err)
	}
	got, err = i.run(newTreeCommand(), "--paths", text(root))
	want = text(leaf) + "  lib/\n" + text(data) + "  lib/f\n-  lib/l -> f\n" + text(data) + "  main.c\n"
	if err != nil || got != want {
		t.Errorf("got:\n%s\nwant:\n%s\n%v", got, want, err)
	}
	gone := i.putMessage(&repb.Directory{Directories: []*repb.DirectoryNode{{Name: "gone", Digest: absent("gone")}}})
	got, err = i.run(newTreeCommand(), text(gone))
	if err == nil || !strings.Contains(got, "gone/  (missing: "+text(absent("gone"))+")") {
		t.Errorf("a missing directory: %q, %v", got, err)
	}
}

func TestAction(t *testing.T) {
	i := newInspected(t)
	input := i.putMessage(&repb.Directory{Files: []*repb.FileNode{{Name: "a.c", Digest: i.put([]byte("int a;"))}}})
	command := i.putMessage(&repb.Command{
		Arguments:            []string{"gcc", "-DX=it's", "-c", "a.c"},
		EnvironmentVariables: []*repb.Command_EnvironmentVariable{{Name: "PATH", Value: "/bin"}},
		OutputPaths:          []string{"a.o"},
	})
	a := i.putMessage(&repb.Action{
		CommandDigest: command, InputRootDigest: input, Timeout: durationpb.New(time.Minute),
		Platform: &repb.Platform{Properties: []*repb.Platform_Property{{Name: "OS", Value: "linux"}}},
	})
	wants := func(got string, err error, want ...string) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("no %q in:\n%s", w, got)
			}
		}
	}
	got, err := i.run(newActionCommand(), text(a))
	wants(got, err, "action               "+text(a), "gcc '-DX=it'\\''s' -c a.c", "PATH=/bin", "OS=linux", "1m0s", text(command), text(input),
		"output             a.o", "1 directory, 1 file, 0 symbolic links, 6 B", "none in the action cache")

	output := i.put([]byte("object"))
	conn, err := grpc.NewClient(strings.TrimPrefix(i.target, "grpc://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The second action is one whose Action message nobody stored.
	for _, key := range []*repb.Digest{a, absent("action")} {
		_, err = repb.NewActionCacheClient(conn).UpdateActionResult(t.Context(), &repb.UpdateActionResultRequest{
			ActionDigest: key,
			ActionResult: &repb.ActionResult{
				OutputFiles: []*repb.OutputFile{{Path: "a.o", Digest: output, IsExecutable: true}}, StdoutRaw: []byte("fine"), ExitCode: 3,
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		got, err = i.run(newActionCommand(), text(key))
		wants(got, err, "exit status 3", text(output)+"  a.o  (executable)", "stdout             "+text(absent("fine")), "none of 2 blobs")
	}
	wants(got, nil, "not in the CAS")
	if _, err := i.run(newActionCommand(), text(absent("nothing"))); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("neither action nor result: %v", err)
	}
}
