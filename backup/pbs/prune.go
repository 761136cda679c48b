package pbs

import (
	"fmt"
	"net/http"
	"time"
)

// A Retention says how many snapshots of a group stay. Each rule looks at those, newest first, that no rule before it
// decided about: of each period it keeps the newest, until it has kept so many.
type Retention struct {
	Last, Hourly, Daily, Weekly, Monthly, Yearly int
}

// rules returns the rules in their order: how many, and what the periods are called.
func (k Retention) rules() []rule {
	return []rule{
		{k.Last, func(t time.Time) string { return t.Format(time.RFC3339) }},
		{k.Hourly, func(t time.Time) string { return t.Format("2006-01-02 15") }},
		{k.Daily, func(t time.Time) string { return t.Format("2006-01-02") }},
		{k.Weekly, func(t time.Time) string { year, week := t.ISOWeek(); return fmt.Sprint(year, " ", week) }},
		{k.Monthly, func(t time.Time) string { return t.Format("2006-01") }},
		{k.Yearly, func(t time.Time) string { return t.Format("2006") }},
	}
}

type rule struct {
	keep   int
	period func(time.Time) string
}

// A fate is what pruning decides about a snapshot.
type fate string

const (
	undecided fate = ""
	keep      fate = "keep"
	remove    fate = "remove"
	protected fate = "protected"
)

// A pruned is a snapshot to decide about.
type pruned struct {
	at        time.Time
	protected bool
	fate      fate
}

// decide decides about the snapshots of a group, newest first. A retention that keeps nothing keeps everything.
func (k Retention) decide(all []pruned) {
	any := k != Retention{}
	for _, r := range k.rules() {
		if r.keep <= 0 {
			continue
		}
		// A period of which another rule keeps something is not looked at again.
		done := map[string]bool{}
		for _, p := range all {
			if p.fate == keep {
				done[r.period(p.at)] = true
			}
		}
		kept := map[string]bool{}
		for i := range all {
			p := &all[i]
			period := r.period(p.at)
			switch {
			case p.fate != undecided:
			case p.protected:
				p.fate = protected
			case done[period]:
			case kept[period]:
				p.fate = remove
			case len(kept) < r.keep:
				kept[period] = true
				p.fate = keep
			}
		}
	}
	for i := range all {
		p := &all[i]
		switch {
		case p.protected:
			p.fate = protected
		case !any:
			p.fate = keep
		case p.fate == undecided:
			p.fate = remove
		}
	}
}

func (q *request) retention() (k Retention, err error) {
	for name, n := range map[string]*int{
		"keep-last": &k.Last, "keep-hourly": &k.Hourly, "keep-daily": &k.Daily, "keep-weekly": &k.Weekly,
		"keep-monthly": &k.Monthly, "keep-yearly": &k.Yearly,
	} {
		v, _, err := q.params.number(name)
		if err != nil {
			return k, err
		}
		*n = int(min(v, 1<<30))
	}
	return k, nil
}

type pruneItem struct {
	Type      string `json:"backup-type"`
	ID        string `json:"backup-id"`
	Time      int64  `json:"backup-time"`
	Keep      bool   `json:"keep"`
	Protected bool   `json:"protected"`
	Mark      fate   `json:"mark"`
}

// prune removes what a retention does not keep of one group. It answers what it did, or would do.
func (q *request) prune(d *datastore) (any, error) {
	ctx := q.r.Context()
	g, err := q.params.group()
	if err != nil {
		return nil, err
	}
	k, err := q.retention()
	if err != nil {
		return nil, err
	}
	dry, err := q.params.truth("dry-run")
	if err != nil {
		return nil, err
	}
	if err := q.changer(d, g); err != nil {
		return nil, err
	}
	all, err := d.ofGroup(ctx, g)
	if err != nil {
		return nil, err
	}
	marks := make([]pruned, len(all))
	for i, s := range all {
		marks[len(all)-1-i] = pruned{at: time.Unix(s.moment.time, 0).In(q.server.zone), protected: s.Protected}
	}
	k.decide(marks)
	items := make([]pruneItem, len(all))
	for i, s := range all {
		mark := marks[len(all)-1-i].fate
		items[i] = pruneItem{g.kind, g.id, s.moment.time, mark != remove, s.Protected, mark}
		if mark != remove || dry {
			continue
		}
		// It may be gone, or protected since.
		if err := d.forget(ctx, s.moment); err != nil && statusOf(err) != http.StatusNotFound {
			return nil, err
		}
		q.server.log.Info("snapshot pruned", "store", d.Name, "ns", g.ns, "snapshot", s.moment.String(), "by", q.account.Name)
	}
	return items, nil
}
