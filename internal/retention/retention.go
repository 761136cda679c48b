// Package retention says which of a series of backups stay, by the keep rules that Proxmox Backup Server has.
//
// # Invariants
//
//   - The newest stays wherever any rule is given.
//   - A rule keeps at most its number.
package retention

import (
	"fmt"
	"strconv"
	"time"
)

// Rules say how many stay. They apply in this order. Each keeps the newest of each period, newest periods first, until it
// has kept so many, and leaves out the periods of which a rule before it kept something, and what that rule passed over
// in them. The zero value keeps nothing.
type Rules struct {
	Last, Hourly, Daily, Weekly, Monthly, Yearly int
}

// A rule is one of Rules. Two times are of one period if period returns the same for both.
type rule struct {
	name   string
	keep   int
	period func(i int, t time.Time) string
}

func (r Rules) rules() []rule {
	format := func(layout string) func(int, time.Time) string {
		return func(_ int, t time.Time) string { return t.Format(layout) }
	}
	return []rule{
		{"last", r.Last, func(i int, _ time.Time) string { return strconv.Itoa(i) }},
		{"hourly", r.Hourly, format("2006-01-02 15 -0700")}, // an hour that comes twice is two
		{"daily", r.Daily, format("2006-01-02")},
		{"weekly", r.Weekly, func(_ int, t time.Time) string { year, week := t.ISOWeek(); return fmt.Sprint(year, " ", week) }},
		{"monthly", r.Monthly, format("2006-01")},
		{"yearly", r.Yearly, format("2006")},
	}
}

// Keep returns for each of times, newest first and in the time zone whose days count, the name of the rule that keeps it,
// or "".
func (r Rules) Keep(times []time.Time) []string {
	by := make([]string, len(times))
	passed := make([]bool, len(times))
	for _, rule := range r.rules() {
		if rule.keep <= 0 {
			continue
		}
		done := map[string]bool{}
		for i, t := range times {
			if by[i] != "" {
				done[rule.period(i, t)] = true
			}
		}
		kept := map[string]bool{}
		for i, t := range times {
			period := rule.period(i, t)
			switch {
			case by[i] != "", passed[i], done[period]:
			case kept[period]:
				passed[i] = true
			case len(kept) < rule.keep:
				kept[period], by[i] = true, rule.name
			}
		}
	}
	return by
}
