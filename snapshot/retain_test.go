package snapshot

import (
	"slices"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/internal/retention"
	"github.com/sarsen-build/sarsen/internal/snapshotpb"
)

// TestPolicy: each rule keeps the newest of each of the newest spans that have one.
func TestPolicy(t *testing.T) {
	at := func(text string, tags ...string) *snapshotpb.Snapshot {
		when, err := time.Parse("2006-01-02 15:04", text)
		if err != nil {
			t.Fatal(err)
		}
		return &snapshotpb.Snapshot{Id: text, Time: stamp(when), Tags: tags}
	}
	all := []*snapshotpb.Snapshot{
		at("2024-12-30 12:00", "release"), at("2024-12-31 12:00"), at("2025-11-30 10:00"), at("2026-01-04 23:00"), at("2026-01-05 01:00"),
		at("2026-01-05 09:10"), at("2026-01-05 09:50"), at("2026-01-05 10:00"),
	}
	type rules = retention.Rules
	for _, tt := range []struct {
		policy Policy
		want   []int // places in all
	}{
		{Policy{Rules: rules{Last: 2}}, []int{6, 7}},
		{Policy{Rules: rules{Last: 100}}, []int{0, 1, 2, 3, 4, 5, 6, 7}},
		{Policy{Rules: rules{Hourly: 3}}, []int{4, 6, 7}},
		{Policy{Rules: rules{Daily: 3}}, []int{2, 3, 7}},
		{Policy{Rules: rules{Weekly: 2}}, []int{3, 7}},
		{Policy{Rules: rules{Monthly: 2}}, []int{2, 7}},
		{Policy{Rules: rules{Yearly: 3}}, []int{1, 2, 7}},
		{Policy{Within: time.Hour}, []int{5, 6, 7}},
		{Policy{Tags: []string{"release", "x"}}, []int{0}},
		{Policy{Rules: rules{Last: 1, Yearly: 2}}, []int{1, 2, 7}},
		{Policy{Rules: rules{Last: 1}, Within: time.Hour, Tags: []string{"release"}}, []int{0, 4, 5, 6, 7}},
		{Policy{Rules: rules{Last: -1}}, nil},
		{Policy{}, nil},
	} {
		kept := tt.policy.Apply(all, time.UTC)
		var got []int
		for i, s := range all {
			if len(kept[s]) > 0 {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%+v keeps %v, want %v", tt.policy, got, tt.want)
		}
		if tt.policy.IsZero() != (tt.want == nil) {
			t.Errorf("%+v is zero: %v", tt.policy, tt.policy.IsZero())
		}
	}
}
