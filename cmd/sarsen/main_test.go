package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/sarsen-build/sarsen/config"
	"github.com/sarsen-build/sarsen/segment"
)

// TestEverythingIsExplained checks that help has a sentence for every command and every flag.
func TestEverythingIsExplained(t *testing.T) {
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Short == "" || cmd.Long == "" {
			t.Errorf("%s: no short or no long help", cmd.CommandPath())
		}
		for line := range strings.Lines(cmd.LocalFlags().FlagUsages()) {
			if _, explanation, _ := strings.Cut(strings.TrimSpace(line), "   "); len(explanation) < 10 {
				t.Errorf("%s: got no explanation in %q", cmd.CommandPath(), line)
			}
		}
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	walk(newRootCommand())
}

func TestExitStatus(t *testing.T) {
	for _, test := range []struct {
		args   string
		status int
		stderr string
	}{
		{"version", statusOK, ""},
		{"config", statusOK, ""},
		{"help", statusOK, ""},
		{"upp", statusUsage, "sarsen: \"upp\" is no command of sarsen; did you mean up?\nSee 'sarsen --help'.\n"},
		{"config chek", statusUsage, "sarsen: \"chek\" is no command of sarsen config; did you mean check?\nSee 'sarsen config --help'.\n"},
		{"up --bananas", statusUsage, "sarsen: unknown flag: --bananas\nSee 'sarsen up --help'.\n"},
		{"up --log-format xml", statusUsage, "sarsen: --log-format: \"xml\" is not a log format; write text or json\nSee 'sarsen up --help'.\n"},
		{"config check --config /not/there", statusError, "sarsen: can't read the configuration: open /not/there: no such file or directory\n"},
	} {
		root := newRootCommand()
		var stderr bytes.Buffer
		root.SetArgs(strings.Fields(test.args))
		root.SetOut(io.Discard)
		root.SetErr(&stderr)
		if got := execute(root); got != test.status || stderr.String() != test.stderr {
			t.Errorf("sarsen %s: got status %d and %q, want %d and %q", test.args, got, &stderr, test.status, test.stderr)
		}
	}
}

func TestExplainOpen(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("open: %w", segment.ErrLocked), "/d is in use by another Sarsen; stop that one, or choose another directory with --dir"},
		{&os.PathError{Op: "write", Path: "/d/1.seg", Err: syscall.ENOSPC}, "the disk of /d is full; free some space, or choose a directory on another disk with --dir"},
		{&os.PathError{Op: "mkdir", Path: "/d", Err: syscall.EROFS}, "/d can't be written to (read-only file system); choose another directory with --dir"},
		{&os.PathError{Op: "mkdir", Path: "/d", Err: syscall.ENOENT}, "/d can't be written to (no such file or directory); choose another directory with --dir"},
		{errors.New("odd"), "the store in /d can't be opened: odd"},
	} {
		if got := explainOpen("/d", test.err).Error(); got != test.want {
			t.Errorf("%v: got %q, want %q", test.err, got, test.want)
		}
	}
}

func TestAdvertised(t *testing.T) {
	for _, test := range []struct{ configured, want string }{
		{"127.0.0.1:0", "127.0.0.1:7"}, {"localhost:0", "localhost:7"}, {":0", "127.0.0.1:7"},
		{"0.0.0.0:7", "127.0.0.1:7"}, {"[::]:7", "127.0.0.1:7"}, {"[::1]:0", "[::1]:7"}, {"cache.example:7", "cache.example:7"},
	} {
		if got := advertised(test.configured, &net.TCPAddr{IP: net.IPv4zero, Port: 7}); got != test.want {
			t.Errorf("%s: got %s, want %s", test.configured, got, test.want)
		}
	}
}

func TestReadyWarnsOfOpenAddresses(t *testing.T) {
	for address, want := range map[string]bool{"127.0.0.1:1": false, "[::1]:1": false, "localhost:1": false, ":1": true, "10.0.0.1:1": true} {
		var text strings.Builder
		printReady(&text, &config.Config{GRPC: "127.0.0.1:2", HTTP: address}, "a:1", "b:2", "", 0)
		if got := strings.Contains(text.String(), "Whoever can reach"); got != want {
			t.Errorf("%s: warned: got %t, want %t", address, got, want)
		}
	}
}

func TestTerminalLog(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(newTerminalHandler(&out, slog.LevelInfo))
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, level := range []slog.Level{slog.LevelInfo, slog.LevelWarn} {
		r := slog.NewRecord(at, level, "a message", 0)
		r.Add("n", 1, "text", "two words")
		if err := log.With("part", "store").Handler().Handle(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	r := slog.NewRecord(at, slog.LevelInfo, "alone", 0)
	if err := log.Handler().Handle(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	want := `03:04:05 a message  part=store n=1 text="two words"
03:04:05 warn: a message  part=store n=1 text="two words"
03:04:05 alone
`
	if got := out.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if log.Enabled(t.Context(), slog.LevelDebug) {
		t.Error("debug is on at level info")
	}
}
