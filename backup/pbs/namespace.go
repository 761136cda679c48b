package pbs

import (
	"context"
	"slices"
)

// The REST calls about namespaces.

func (q *request) listNamespaces(d *datastore) (any, error) {
	parent, _ := q.params.text("parent")
	if parent == "" {
		parent, _ = q.params.text("ns")
	}
	if err := checkNamespace(parent); err != nil {
		return nil, err
	}
	if err := d.needNamespace(q.r.Context(), parent); err != nil {
		return nil, err
	}
	depth, ok, err := q.params.number("max-depth")
	if err != nil {
		return nil, err
	}
	if !ok {
		depth = maxDepth
	}
	all, err := d.namespaces(q.r.Context(), parent, int(depth))
	if err != nil {
		return nil, err
	}
	items := []map[string]string{}
	for _, ns := range all {
		if q.account.may(d.Name, ns, Read) || q.account.may(d.Name, ns, Backup) || q.account.may(d.Name, ns, Prune) {
			items = append(items, map[string]string{"ns": ns})
		}
	}
	return items, nil
}

func (q *request) createNamespace(d *datastore) (any, error) {
	name, err := q.params.need("name")
	if err != nil {
		return nil, err
	}
	parent, _ := q.params.text("parent")
	ns := name
	if parent != "" {
		ns = parent + "/" + name
	}
	if err := checkName("name", name); err != nil {
		return nil, err
	}
	if err := checkNamespace(ns); err != nil {
		return nil, err
	}
	if !q.account.may(d.Name, parent, Prune) {
		return nil, forbidden("prune (which includes to make namespaces)")
	}
	return ns, d.createNamespace(q.r.Context(), parent, ns)
}

// nsTurn names the turn of whoever makes or removes namespaces, or makes a snapshot in one, which is taken before a group's.
const nsTurn = "namespaces"

func (d *datastore) createNamespace(ctx context.Context, parent, ns string) error {
	release, err := d.turns.Take(ctx, nsTurn)
	if err != nil {
		return err
	}
	defer release()
	if err := d.needNamespace(ctx, parent); err != nil {
		return err
	}
	ok, err := d.hasNamespace(ctx, ns)
	if err != nil {
		return err
	}
	if ok {
		return badRequest("namespace '%s' exists already", ns)
	}
	return d.keepNamespace(ctx, ns)
}

func (q *request) deleteNamespace(d *datastore) (any, error) {
	ns, err := q.params.need("ns")
	if err != nil {
		return nil, err
	}
	if ns == "" {
		return nil, badRequest("the root namespace can't be removed")
	}
	if err := checkNamespace(ns); err != nil {
		return nil, err
	}
	groups, err := q.params.truth("delete-groups")
	if err != nil {
		return nil, err
	}
	strict, err := q.strict()
	if err != nil {
		return nil, err
	}
	if !q.account.may(d.Name, ns, Prune|Read) {
		return nil, forbidden("prune and read")
	}
	var r removed
	if err := d.deleteNamespace(q.r.Context(), ns, groups, &r); err != nil {
		return nil, err
	}
	if r.Protected > 0 && strict {
		return nil, badRequest("namespace '%s' only partially deleted: %d snapshots are protected", ns, r.Protected)
	}
	return r, nil
}

// deleteNamespace removes a namespace and all below it; with groups, their groups too. What has protected snapshots stays.
func (d *datastore) deleteNamespace(ctx context.Context, ns string, groups bool, r *removed) error {
	release, err := d.turns.Take(ctx, nsTurn)
	if err != nil {
		return err
	}
	defer release()
	if err := d.needNamespace(ctx, ns); err != nil {
		return err
	}
	all, err := d.namespaces(ctx, ns, maxDepth)
	if err != nil {
		return err
	}
	for _, n := range slices.Backward(all) {
		there, err := d.groups(ctx, n)
		if err != nil {
			return err
		}
		if len(there) > 0 && !groups {
			return badRequest("namespace '%s' is not empty", n)
		}
		for _, g := range there {
			if err := d.removeGroup(ctx, g, r); err != nil {
				return err
			}
		}
		if r.Protected > 0 {
			continue // nor do those above it go
		}
		if err := d.Keeper.Release(ctx, d.nsRoot(n)); err != nil {
			return err
		}
	}
	return nil
}
