package pbs

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

// Namespaces are roots without blobs.

func (d *datastore) nsRoot(ns string) string {
	return rootPrefix + d.Name + "/" + strings.TrimSuffix(nsPath(ns), "/")
}

// hasNamespace reports whether a namespace was made. The top is always there.
func (d *datastore) hasNamespace(ctx context.Context, ns string) (bool, error) {
	if ns == "" {
		return true, nil
	}
	_, err := blob.KeptRoot(ctx, d.Keeper, d.nsRoot(ns))
	if errors.Is(err, blob.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// needNamespace refuses a namespace that is not there.
func (d *datastore) needNamespace(ctx context.Context, ns string) error {
	ok, err := d.hasNamespace(ctx, ns)
	if err == nil && !ok {
		err = refusal.New(http.StatusNotFound, "namespace '%s' does not exist", ns)
	}
	return err
}

// namespaces returns a namespace and those below it, down to depth levels, parents first.
func (d *datastore) namespaces(ctx context.Context, ns string, depth int) ([]string, error) {
	all := []string{ns}
	for r, err := range d.Keeper.Kept(ctx, rootPrefix+d.Name+"/"+nsPath(ns)+"ns/") {
		if err != nil {
			return nil, err
		}
		parts := strings.Split(strings.TrimPrefix(r.Name, rootPrefix+d.Name+"/"), "/")
		var names []string
		for len(parts) >= 2 && parts[0] == "ns" {
			names, parts = append(names, parts[1]), parts[2:]
		}
		if len(parts) == 0 && len(names)-levels(ns) <= depth {
			all = append(all, strings.Join(names, "/"))
		}
	}
	slices.Sort(all)
	return all, nil
}

func levels(ns string) int {
	if ns == "" {
		return 0
	}
	return 1 + strings.Count(ns, "/")
}

func (d *datastore) keepNamespace(ctx context.Context, ns string) error {
	return d.Keeper.Keep(ctx, d.nsRoot(ns), []byte("{}"), digest.Set{})
}

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
