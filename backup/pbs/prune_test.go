package pbs_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/internal/pbstest"
)

// TestPrune has the rules of Proxmox Backup Server's manual: each option keeps the newest of so many periods, of
// those that no option before it has covered.
func TestPrune(t *testing.T) {
	f := start(t, forgets())
	for n, test := range []struct {
		times, options string
		kept           string
	}{
		{"2024-03-01T10 2024-03-01T11 2024-03-02T10", "", "2024-03-01T10 2024-03-01T11 2024-03-02T10"},
		{"2024-03-01T10 2024-03-01T11 2024-03-02T10", "keep-last=1", "2024-03-02T10"},
		{"2024-03-01T10 2024-03-01T11 2024-03-02T10", "keep-last=2", "2024-03-01T11 2024-03-02T10"},
		{"2024-03-01T10 2024-03-01T11 2024-03-02T10", "keep-daily=5", "2024-03-01T11 2024-03-02T10"},
		{"2024-03-01T10 2024-03-01T11 2024-03-02T10", "keep-daily=1", "2024-03-02T10"},
		// Days without a backup don't count.
		{"2024-01-01T10 2024-02-01T10 2024-03-01T10", "keep-daily=2", "2024-02-01T10 2024-03-01T10"},
		// What keep-last covers is left out by keep-daily, with the rest of that day.
		{"2024-03-01T10 2024-03-02T09 2024-03-02T10 2024-03-02T11", "keep-last=1 keep-daily=1", "2024-03-01T10 2024-03-02T11"},
		{"2024-03-01T10 2024-03-01T12 2024-03-02T09 2024-03-02T10", "keep-hourly=2 keep-daily=1", "2024-03-01T12 2024-03-02T09 2024-03-02T10"},
		// Weeks are those of ISO 8601: 30 December 2024 is in the first week of 2025.
		{"2024-12-29T10 2024-12-30T10 2025-01-01T10 2025-01-06T10", "keep-weekly=2", "2025-01-01T10 2025-01-06T10"},
		{"2024-12-29T10 2024-12-30T10 2025-01-01T10 2025-01-06T10", "keep-weekly=3", "2024-12-29T10 2025-01-01T10 2025-01-06T10"},
		{"2023-12-31T10 2024-01-31T10 2024-02-01T10 2024-02-29T10", "keep-monthly=2", "2024-01-31T10 2024-02-29T10"},
		{"2022-05-01T10 2023-05-01T10 2023-06-01T10 2024-01-01T10", "keep-yearly=2", "2023-06-01T10 2024-01-01T10"},
		{"2022-05-01T10 2023-05-01T10 2023-06-01T10 2024-01-01T10", "keep-monthly=1 keep-yearly=2", "2022-05-01T10 2023-06-01T10 2024-01-01T10"},
		// A protected one stays, and counts for nothing.
		{"2024-03-01T10 2024-03-01T11! 2024-03-02T10", "keep-last=1", "2024-03-01T11 2024-03-02T10"},
		{"2024-03-01T10 2024-03-02T10 2024-03-03T10!", "keep-last=1", "2024-03-02T10 2024-03-03T10"},
		{"2024-03-01T10 2024-03-02T10 2024-03-03T10!", "keep-last=1 dry-run=1", "2024-03-01T10 2024-03-02T10 2024-03-03T10"},
	} {
		t.Run(test.options, func(t *testing.T) {
			g := pbstest.Snapshot{Type: "ct", ID: fmt.Sprint(n)}
			for text := range strings.FieldsSeq(test.times) {
				stamp, protected := strings.CutSuffix(text, "!")
				at, err := time.Parse("2006-01-02T15", stamp)
				if err != nil {
					t.Fatal(err)
				}
				s := g
				s.Time = at.Unix()
				backUp(t, f.Client, s, nil, bytesOf(1, 100))
				if protected {
					if err := f.Admin(t.Context(), "PUT", "protected", with(s.Query(), "protected", "1"), nil); err != nil {
						t.Fatal(err)
					}
				}
			}
			q := g.Query()
			for o := range strings.FieldsSeq(test.options) {
				name, value, _ := strings.Cut(o, "=")
				q.Set(name, value)
			}
			var marks []struct {
				Time int64 `json:"backup-time"`
				Keep bool
			}
			if err := f.Admin(t.Context(), "POST", "prune", q, &marks); err != nil {
				t.Fatal(err)
			}
			var items []struct {
				Time int64 `json:"backup-time"`
			}
			if err := f.Admin(t.Context(), "GET", "snapshots", url.Values{"backup-type": {"ct"}, "backup-id": {g.ID}}, &items); err != nil {
				t.Fatal(err)
			}
			var kept []string
			for _, i := range items {
				kept = append(kept, time.Unix(i.Time, 0).UTC().Format("2006-01-02T15"))
			}
			if got := strings.Join(kept, " "); got != test.kept {
				t.Errorf("%s of %s keeps %s, want %s", test.options, test.times, got, test.kept)
			}
			if len(marks) != len(strings.Fields(test.times)) {
				t.Errorf("prune answers about %d snapshots", len(marks))
			}
		})
	}
}
