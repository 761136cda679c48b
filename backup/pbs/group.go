package pbs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

// A groupInfo is the value of a group's root. It is there from the first snapshot on, and stays until the group is
// removed.
type groupInfo struct {
	was *blob.Root // it was read from, nil if it is new

	Owner string `json:"owner"`
	Notes string `json:"notes,omitempty"`
}

// group returns what is known of a group, or false.
func (d *datastore) group(ctx context.Context, g group) (info groupInfo, ok bool, err error) {
	r, err := blob.KeptRoot(ctx, d.Keeper, g.root(d.Name))
	if errors.Is(err, blob.ErrNotFound) {
		return info, false, nil
	}
	if err != nil {
		return info, false, err
	}
	if err := json.Unmarshal(r.Value, &info); err != nil {
		return info, false, fmt.Errorf("%w: the root %q: %w", blob.ErrCorrupt, r.Name, err)
	}
	info.was = &r
	return info, true, nil
}

// keepGroup makes info what is known of a group, if nobody changed that since it was read.
func (d *datastore) keepGroup(ctx context.Context, g group, info groupInfo) error {
	value, err := json.Marshal(info)
	if err != nil {
		return err
	}
	return d.Keeper.KeepIf(ctx, g.root(d.Name), info.was, value, digest.Set{})
}

// changeGroup changes a group that is there.
func (d *datastore) changeGroup(ctx context.Context, g group, fn func(*groupInfo) error) error {
	release, err := d.turns.Take(ctx, g.root(d.Name))
	if err != nil {
		return err
	}
	defer release()
	return blob.WhileChanged(ctx, func() error {
		info, ok, err := d.group(ctx, g)
		if err != nil {
			return err
		}
		if !ok {
			return refusal.New(http.StatusNotFound, "group %s does not exist", g)
		}
		if err := fn(&info); err != nil {
			return err
		}
		return d.keepGroup(ctx, g, info)
	})
}

// A removed counts what was removed of groups, and what stays of them.
type removed struct {
	Groups    int `json:"removed-groups"`
	Snapshots int `json:"removed-snapshots"`
	Protected int `json:"protected-snapshots"`
}

// removeGroup removes all snapshots of a group that are not protected, and the group itself if none stays. It counts
// them in r.
func (d *datastore) removeGroup(ctx context.Context, g group, r *removed) error {
	free, ok := d.turns.Try(writing(g, d.Name))
	if !ok {
		return badRequest("group %s is in use: a backup runs", g)
	}
	defer free()
	release, err := d.turns.Take(ctx, g.root(d.Name))
	if err != nil {
		return err
	}
	defer release()
	return blob.WhileChanged(ctx, func() error { return d.removeFree(ctx, g, r) })
}

// removeFree removes what is not protected, up to the first snapshot that another server changed meanwhile.
func (d *datastore) removeFree(ctx context.Context, g group, r *removed) error {
	all, err := d.ofGroup(ctx, g)
	if err != nil {
		return err
	}
	stay := 0
	for _, s := range all {
		if s.Protected {
			stay++
			continue
		}
		if err := d.Keeper.ReleaseIf(ctx, *s.was); err != nil {
			return err
		}
		r.Snapshots++
	}
	r.Protected += stay
	if stay > 0 {
		return nil
	}
	r.Groups++
	return d.Keeper.Release(ctx, g.root(d.Name))
}

// groups returns the groups of a namespace, those without snapshots too: they have an owner.
func (d *datastore) groups(ctx context.Context, ns string) (all []group, err error) {
	seen := map[group]bool{}
	for _, kind := range types {
		for r, err := range d.Keeper.Kept(ctx, group{ns, kind, ""}.root(d.Name)) {
			if err != nil {
				return nil, err
			}
			if name, ok := parseRoot(d.Name, ns, r.Name); ok && !seen[name.group] {
				seen[name.group] = true
				all = append(all, name.group)
			}
		}
	}
	return all, nil
}

// writing names the turn of whoever writes a snapshot of a group.
func writing(g group, store string) string { return "writing " + g.root(store) }
