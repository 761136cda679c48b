package pbs

import (
	"net/http"

	"github.com/sarsen-build/sarsen/internal/refusal"
)

// The REST calls about groups.

type groupItem struct {
	Type    string   `json:"backup-type"`
	ID      string   `json:"backup-id"`
	Last    int64    `json:"last-backup"`
	Count   int      `json:"backup-count"`
	Files   []string `json:"files"`
	Owner   string   `json:"owner"`
	Comment string   `json:"comment,omitempty"`
}

func (q *request) listGroups(d *datastore) (any, error) {
	all, owners, err := q.visible(d)
	if err != nil {
		return nil, err
	}
	items := []groupItem{}
	var at group
	for _, s := range all {
		if g := s.name.group; len(items) == 0 || g != at {
			at = g
			info, _, err := d.group(q.r.Context(), g)
			if err != nil {
				return nil, err
			}
			items = append(items, groupItem{Type: g.kind, ID: g.id, Owner: owners[g], Comment: firstLine(info.Notes)})
		}
		item := &items[len(items)-1]
		item.Last, item.Files = s.name.time, nil
		item.Count++
		for _, f := range s.Files {
			item.Files = append(item.Files, f.Name)
		}
	}
	return items, nil
}

func (q *request) deleteGroup(d *datastore) (any, error) {
	g, err := q.params.group()
	if err != nil {
		return nil, err
	}
	strict, err := q.strict()
	if err != nil {
		return nil, err
	}
	if err := q.mayChange(d, g); err != nil {
		return nil, err
	}
	var r removed
	if err := d.removeGroup(q.r.Context(), g, &r); err != nil {
		return nil, err
	}
	q.server.log.Info("group removed", "store", d.Name, "ns", g.ns, "group", g.String(), "by", q.account.Name)
	if r.Protected > 0 && strict {
		return nil, badRequest("group %s only partially deleted: %d snapshots are protected", g, r.Protected)
	}
	return r, nil
}

// strict reads whether it is an error that something stays for being protected, which it is unless a client says no.
func (q *request) strict() (bool, error) {
	if _, ok := q.params.text("error-on-protected"); !ok {
		return true, nil
	}
	return q.params.truth("error-on-protected")
}

// maxGroupNotes bounds the notes of a group, which stand in its root.
const maxGroupNotes = 32 << 10

func (q *request) getGroupNotes(d *datastore) (any, error) {
	g, err := q.params.group()
	if err != nil {
		return nil, err
	}
	info, _, err := d.group(q.r.Context(), g)
	if err != nil {
		return nil, err
	}
	if !q.account.mayRead(d.Name, g.ns, info.Owner) {
		return nil, forbidden("read")
	}
	return info.Notes, nil
}

func (q *request) putGroupNotes(d *datastore) (any, error) {
	notes, err := q.params.need("notes")
	if err != nil {
		return nil, err
	}
	if len(notes) > maxGroupNotes {
		return nil, badRequest("notes of %d bytes, at most %d are kept", len(notes), maxGroupNotes)
	}
	g, err := q.myGroup(d)
	if err != nil {
		return nil, err
	}
	return nil, d.changeGroup(q.r.Context(), g, func(info *groupInfo) error {
		info.Notes = notes
		return nil
	})
}

func (q *request) changeOwner(d *datastore) (any, error) {
	owner, err := q.params.need("new-owner")
	if err != nil {
		return nil, err
	}
	if q.server.account(owner) == nil {
		return nil, badRequest("there is no account '%s'", owner)
	}
	g, err := q.myGroup(d)
	if err != nil {
		return nil, err
	}
	return nil, d.changeGroup(q.r.Context(), g, func(info *groupInfo) error {
		info.Owner = owner
		return nil
	})
}

// myGroup returns the group that is asked for, which the sender may change.
func (q *request) myGroup(d *datastore) (group, error) {
	g, err := q.params.group()
	if err != nil {
		return g, err
	}
	return g, q.mayChange(d, g)
}

// mayChange refuses, unless the sender may change g and g is there.
func (q *request) mayChange(d *datastore, g group) error {
	info, ok, err := d.group(q.r.Context(), g)
	switch {
	case err != nil:
		return err
	case !q.account.mayPrune(d.Name, g.ns, info.Owner):
		return forbidden("prune")
	case !ok:
		return refusal.New(http.StatusNotFound, "group %s does not exist", g)
	}
	return nil
}
