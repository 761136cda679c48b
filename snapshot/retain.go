package snapshot

import (
	"slices"
	"time"

	"github.com/sarsen-build/sarsen/internal/retention"
	"github.com/sarsen-build/sarsen/internal/snapshotpb"
)

// A Policy says which snapshots of one name stay. The zero value says of none.
type Policy struct {
	retention.Rules
	Within time.Duration
	Tags   []string // those that have one of them
}

// IsZero reports whether p keeps nothing.
func (p Policy) IsZero() bool {
	return max(p.Last, p.Hourly, p.Daily, p.Weekly, p.Monthly, p.Yearly) <= 0 && p.Within <= 0 && len(p.Tags) == 0
}

// Apply returns which of the snapshots, all of one name, stay, and why. Hours and days are those of zone. Within is
// counted back from the newest snapshot, so that a machine which is off for long loses nothing. What Within or Tags keep
// counts for no other rule.
func (p Policy) Apply(all []*snapshotpb.Snapshot, zone *time.Location) (why map[*snapshotpb.Snapshot][]string) {
	why = map[*snapshotpb.Snapshot][]string{}
	sorted := slices.Clone(all)
	slices.SortStableFunc(sorted, func(a, b *snapshotpb.Snapshot) int { return b.Time.AsTime().Compare(a.Time.AsTime()) })
	var rest []*snapshotpb.Snapshot
	var times []time.Time
	for _, s := range sorted {
		if p.Within > 0 && sorted[0].Time.AsTime().Sub(s.Time.AsTime()) <= p.Within {
			why[s] = append(why[s], "within")
		}
		for _, tag := range p.Tags {
			if slices.Contains(s.Tags, tag) {
				why[s] = append(why[s], "tag "+tag)
			}
		}
		if len(why[s]) == 0 {
			rest, times = append(rest, s), append(times, s.Time.AsTime().In(zone))
		}
	}
	for i, rule := range p.Keep(times) {
		if rule != "" {
			why[rest[i]] = []string{rule}
		}
	}
	return why
}
