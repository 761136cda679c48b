//go:build crash && linux

package crash

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const ledgerHead = `| date (UTC) | commit | harness | server | runs | acknowledged | checked | results lost | results with holes | named blobs lost | other blobs lost | wrong bytes | refused | took |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
`

// A report is one line of the ledger of runs.
type report struct {
	began        time.Time
	harness      string
	command      command
	runs         int
	acknowledged int64
	refused      int64
	tally        tally
	took         time.Duration
}

func (r report) String() string {
	t := r.tally
	return fmt.Sprintf("| %s | %s | %s | `%s` | %d | %d | %d | %d | %d | %d | %d | %d | %d | %s |\n",
		r.began.UTC().Format("2006-01-02 15:04"), commit(), r.harness, r.command.portable(), r.runs, r.acknowledged, t.checked,
		t.results+t.files, t.holes, t.named, t.others, t.wrong, r.refused, r.took.Round(time.Second))
}

var folders = regexp.MustCompile(`(?:/[^\s/{}'"=]+)*/([^\s/{}'"=]+)`)

// portable returns the command without the folders of one machine.
func (c command) portable() string {
	text := folders.ReplaceAllString(string(c), "$1")
	return strings.ReplaceAll(strings.TrimPrefix(text, "exec "), "|", `\|`)
}

func TestPortable(t *testing.T) {
	for c, want := range map[command]string{
		"/a/b/peer.sh {dir} {grpc}":         "peer.sh {dir} {grpc}",
		"exec {sarsen} up --dir {dir}/x":    "{sarsen} up --dir {dir}x",
		"exec peer -c /etc/a/peer.conf a|b": `peer -c peer.conf a\|b`,
	} {
		if got := c.portable(); got != want {
			t.Errorf("portable %q = %q, want %q", c, got, want)
		}
	}
}

// commit returns what is checked out, with a + if it was changed.
func commit() string {
	head, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	name := strings.TrimSpace(string(head))
	// The ledger itself changes with each run.
	changed, err := exec.Command("git", "status", "--porcelain", "--", ":/", ":!/docs/runs.md").Output()
	if err != nil || len(changed) > 0 {
		name += "+"
	}
	return name
}

// append adds r to the end of a file, which ends with the table.
func (r report) append(name string) error {
	if !filepath.IsAbs(name) {
		name = filepath.Join("../..", name)
	}
	text, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !bytes.Contains(text, []byte(ledgerHead)) {
		text = append(text, ledgerHead...)
	}
	return os.WriteFile(name, append(text, r.String()...), 0o644)
}
