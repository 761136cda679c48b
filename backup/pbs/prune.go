package pbs

import (
	"net/http"
	"time"

	"github.com/sarsen-build/sarsen/internal/retention"
)

// A fate is what pruning decides about a snapshot.
type fate string

const (
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

// decide decides about the snapshots of a group, newest first. Rules that keep nothing keep everything. What is protected
// stays, and counts for nothing.
func decide(rules retention.Rules, all []pruned) {
	var times []time.Time
	for _, p := range all {
		if !p.protected {
			times = append(times, p.at)
		}
	}
	by := rules.Keep(times)
	for i := range all {
		p := &all[i]
		if p.protected {
			p.fate = protected
			continue
		}
		p.fate = remove
		if by[0] != "" || rules == (retention.Rules{}) {
			p.fate = keep
		}
		by = by[1:]
	}
}

func (q *request) retention() (k retention.Rules, err error) {
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
	if err := q.mayChange(d, g); err != nil {
		return nil, err
	}
	all, err := d.ofGroup(ctx, g)
	if err != nil {
		return nil, err
	}
	marks := make([]pruned, len(all))
	for i, s := range all {
		marks[len(all)-1-i] = pruned{at: time.Unix(s.name.time, 0).In(q.server.zone), protected: s.Protected}
	}
	decide(k, marks)
	items := make([]pruneItem, len(all))
	for i, s := range all {
		mark := marks[len(all)-1-i].fate
		items[i] = pruneItem{g.kind, g.id, s.name.time, mark != remove, s.Protected, mark}
		if mark != remove || dry {
			continue
		}
		// It may be gone, or protected since.
		if err := d.forget(ctx, s.name); err != nil && statusOf(err) != http.StatusNotFound {
			return nil, err
		}
		q.server.log.Info("snapshot pruned", "store", d.Name, "ns", g.ns, "snapshot", s.name.String(), "by", q.account.Name)
	}
	return items, nil
}
