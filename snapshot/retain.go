package snapshot

import (
	"fmt"
	"slices"
	"time"

	"github.com/sarsen-build/sarsen/internal/snapshotpb"
)

// A Policy says which snapshots of one name stay. The zero value says of none.
type Policy struct {
	Last                                   int // the newest
	Hourly, Daily, Weekly, Monthly, Yearly int // the newest of each of the newest hours, days ... that have one
	Within                                 time.Duration
	Tags                                   []string // those that have one of them
}

// IsZero reports whether p keeps nothing.
func (p Policy) IsZero() bool {
	return p.Last <= 0 && p.Hourly <= 0 && p.Daily <= 0 && p.Weekly <= 0 && p.Monthly <= 0 && p.Yearly <= 0 && p.Within <= 0 && len(p.Tags) == 0
}

// Apply returns which of the snapshots, all of one name, stay, and why. Hours and days are those of zone. Within is
// counted back from the newest snapshot, so that a machine which is off for long loses nothing.
func (p Policy) Apply(all []*snapshotpb.Snapshot, zone *time.Location) (why map[*snapshotpb.Snapshot][]string) {
	why = map[*snapshotpb.Snapshot][]string{}
	sorted := slices.Clone(all)
	slices.SortStableFunc(sorted, func(a, b *snapshotpb.Snapshot) int { return b.Time.AsTime().Compare(a.Time.AsTime()) })
	for i, s := range sorted {
		if i < p.Last {
			why[s] = append(why[s], "last")
		}
		if p.Within > 0 && sorted[0].Time.AsTime().Sub(s.Time.AsTime()) <= p.Within {
			why[s] = append(why[s], "within")
		}
		for _, tag := range p.Tags {
			if slices.Contains(s.Tags, tag) {
				why[s] = append(why[s], "tag "+tag)
			}
		}
	}
	for _, rule := range []struct {
		name string
		n    int
		of   func(time.Time) string
	}{
		{"hourly", p.Hourly, func(t time.Time) string { return t.Format("2006-01-02 15 -0700") }},
		{"daily", p.Daily, func(t time.Time) string { return t.Format("2006-01-02") }},
		{"weekly", p.Weekly, func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprint(y, "-", w) }},
		{"monthly", p.Monthly, func(t time.Time) string { return t.Format("2006-01") }},
		{"yearly", p.Yearly, func(t time.Time) string { return t.Format("2006") }},
	} {
		taken, last := 0, ""
		for _, s := range sorted {
			of := rule.of(s.Time.AsTime().In(zone))
			if taken < rule.n && of != last {
				taken, last = taken+1, of
				why[s] = append(why[s], rule.name)
			}
		}
	}
	return why
}
