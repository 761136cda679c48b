package retention

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestKeep has the rules of Proxmox Backup Server's manual.
func TestKeep(t *testing.T) {
	for _, test := range []struct {
		rules Rules
		times string // oldest first
		want  string // the rule that keeps each, - for none
	}{
		{Rules{}, "2024-03-01T10 2024-03-02T10", "- -"},
		{Rules{Last: 2}, "2024-03-01T10 2024-03-01T11 2024-03-01T11", "- last last"},
		{Rules{Last: -1, Daily: 1}, "2024-03-01T10 2024-03-01T11", "- daily"},
		{Rules{Daily: 5}, "2024-03-01T10 2024-03-01T11 2024-03-02T10", "- daily daily"},
		// Days without a backup don't count.
		{Rules{Daily: 2}, "2024-01-01T10 2024-02-01T10 2024-03-01T10", "- daily daily"},
		// The day of what last keeps is left out by daily.
		{Rules{Last: 1, Daily: 1}, "2024-03-01T10 2024-03-02T09 2024-03-02T11", "daily - last"},
		{Rules{Hourly: 2, Daily: 1}, "2024-03-01T12 2024-03-02T09 2024-03-02T10", "daily hourly hourly"},
		// 30 December 2024 is in the first week of 2025.
		{Rules{Weekly: 3}, "2024-12-29T10 2024-12-30T10 2025-01-01T10 2025-01-06T10", "weekly - weekly weekly"},
		{Rules{Monthly: 1, Yearly: 2}, "2022-05-01T10 2023-05-01T10 2023-06-01T10 2024-01-01T10", "yearly - yearly monthly"},
		// What weekly passed over in its week is not looked at by monthly.
		{Rules{Weekly: 1, Monthly: 2}, "2024-01-31T10 2024-02-01T10", "- weekly"},
		{Rules{Daily: 1, Monthly: 2}, "2024-01-31T10 2024-02-01T10", "monthly daily"},
	} {
		var times []time.Time
		for text := range strings.FieldsSeq(test.times) {
			at, err := time.Parse("2006-01-02T15", text)
			if err != nil {
				t.Fatal(err)
			}
			times = append(times, at)
		}
		slices.Reverse(times)
		got := test.rules.Keep(times)
		slices.Reverse(got)
		for i := range got {
			if got[i] == "" {
				got[i] = "-"
			}
		}
		if got := strings.Join(got, " "); got != test.want {
			t.Errorf("%+v of %s: got %s, want %s", test.rules, test.times, got, test.want)
		}
	}
}

// TestHourTwice: when clocks are put back, the hour that comes twice is two hours.
func TestHourTwice(t *testing.T) {
	summer, winter := time.FixedZone("CEST", 2*3600), time.FixedZone("CET", 3600)
	got := Rules{Hourly: 2}.Keep([]time.Time{time.Date(2024, 10, 27, 2, 30, 0, 0, winter), time.Date(2024, 10, 27, 2, 30, 0, 0, summer)})
	if want := []string{"hourly", "hourly"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestInvariants has random times and rules: each rule keeps at most its number, the newest stays, and with a year more
// nothing goes.
func TestInvariants(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		times := make([]time.Time, 1+r.IntN(40))
		for i := range times {
			at = at.Add(-time.Duration(r.Int64N(int64(1+r.IntN(60*24)) * int64(time.Hour))))
			times[i] = at
		}
		rules := Rules{r.IntN(3), r.IntN(3), r.IntN(4), r.IntN(4), r.IntN(4), r.IntN(3)}
		got := rules.Keep(times)
		count := map[string]int{}
		for _, by := range got {
			count[by]++
		}
		for _, one := range rules.rules() {
			if count[one.name] > one.keep {
				t.Fatalf("%+v keeps %d by %s", rules, count[one.name], one.name)
			}
		}
		if rules != (Rules{}) && got[0] == "" {
			t.Fatalf("%+v does not keep the newest", rules)
		}
		rules.Yearly++
		for i, by := range rules.Keep(times) {
			if got[i] != "" && by != got[i] {
				t.Fatalf("%+v keeps %v by %q, and by %q with a year less", rules, times[i], by, got[i])
			}
		}
	}
}
