package sandbox

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// TestPipes: a command with pipes is talked to while it runs, and its pipes end with it.
func TestPipes(t *testing.T) {
	both(t, func(t *testing.T, r *Runner) {
		s := newSpec(t, "/bin/sh", "-c", "while read -r line; do echo \"<$line>\"; done; echo over >&2; exit 3")
		s.Stdout, s.Private = "", true
		var err error
		if s.Pipes, err = NewPipes(); err != nil {
			t.Fatal(err)
		}
		defer s.Pipes.Close()
		ended := make(chan Outcome, 1)
		go func() {
			out, err := r.Run(t.Context(), s)
			if err != nil {
				t.Error(err)
			} else {
				_ = out.Root.Close()
			}
			ended <- out
		}()
		out := bufio.NewReader(s.Pipes.Out)
		for _, text := range []string{"one\n", "two\n"} {
			if _, err := io.WriteString(s.Pipes.In, text); err != nil {
				t.Fatal(err)
			}
			got, err := out.ReadString('\n')
			if want := "<" + text[:3] + ">\n"; got != want || err != nil {
				t.Fatalf("got %q, %v, want %q", got, err, want)
			}
		}
		_ = s.Pipes.In.Close()
		if rest, err := io.ReadAll(out); len(rest) > 0 || err != nil {
			t.Errorf("after the end of input: got %q, %v, want the end of output", rest, err)
		}
		if got := <-ended; got.ExitCode != 3 || read(t, s.Stderr) != "over\n" {
			t.Errorf("got exit code %d and %q on standard error, want 3 and over", got.ExitCode, read(t, s.Stderr))
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(s.Root), "stdout")); err == nil {
			t.Error("a file for standard output was made")
		}
	})
}
