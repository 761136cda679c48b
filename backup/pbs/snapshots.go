package pbs

import (
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/sarsen-build/sarsen/backup/pbs/format"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

// The REST calls about snapshots and groups.

type snapshotItem struct {
	Type         string        `json:"backup-type"`
	ID           string        `json:"backup-id"`
	Time         int64         `json:"backup-time"`
	Files        []fileItem    `json:"files"`
	Size         uint64        `json:"size"`
	Owner        string        `json:"owner"`
	Protected    bool          `json:"protected"`
	Comment      string        `json:"comment,omitempty"`
	Fingerprint  string        `json:"fingerprint,omitempty"`
	Verification *verification `json:"verification,omitempty"`
}

type fileItem struct {
	Name  string `json:"filename"`
	Crypt string `json:"crypt-mode,omitempty"`
	Size  uint64 `json:"size"`
}

func filesOf(s *snapshot) []fileItem {
	items := make([]fileItem, len(s.Files))
	for i, f := range s.Files {
		items[i] = fileItem{f.Name, f.Crypt, f.Size}
	}
	return items
}

func itemOf(s *snapshot, owner string) snapshotItem {
	item := snapshotItem{
		Type: s.name.kind, ID: s.name.id, Time: s.name.time, Files: filesOf(s), Owner: owner, Protected: s.Protected,
		Comment: s.Comment, Fingerprint: s.Fingerprint, Verification: s.Verify,
	}
	for _, f := range s.Files {
		item.Size += f.Size
	}
	return item
}

// visible returns the snapshots of a namespace that the sender may see, with their owners; those of one group, if the
// parameters name one.
func (q *request) visible(d *datastore) (all []*snapshot, owners map[group]string, err error) {
	ctx := q.r.Context()
	ns, _ := q.params.text("ns")
	if err := checkNamespace(ns); err != nil {
		return nil, nil, err
	}
	if !q.account.may(d.Name, ns, Read) && !q.account.may(d.Name, ns, Backup) {
		return nil, nil, forbidden("read")
	}
	if err := d.needNamespace(ctx, ns); err != nil {
		return nil, nil, err
	}
	kind, _ := q.params.text("backup-type")
	id, _ := q.params.text("backup-id")
	owners = map[group]string{}
	for _, k := range types {
		if kind != "" && k != kind {
			continue
		}
		for s, err := range d.snapshots(ctx, ns, k, "") {
			if err != nil {
				return nil, nil, err
			}
			g := s.name.group
			if id != "" && g.id != id {
				continue
			}
			owner, ok := owners[g]
			if !ok {
				owner = s.Owner
				if info, ok, err := d.group(ctx, g); err != nil {
					return nil, nil, err
				} else if ok {
					owner = info.Owner
				}
				owners[g] = owner
			}
			if q.account.mayRead(d.Name, ns, owner) {
				all = append(all, s)
			}
		}
	}
	return all, owners, nil
}

func (q *request) listSnapshots(d *datastore) (any, error) {
	all, owners, err := q.visible(d)
	if err != nil {
		return nil, err
	}
	items := make([]snapshotItem, len(all))
	for i, s := range all {
		items[i] = itemOf(s, owners[s.name.group])
	}
	return items, nil
}

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

// one returns the snapshot that a request names, if its sender may read it.
func (q *request) one(d *datastore) (*snapshot, error) {
	name, err := q.params.snapshotName()
	if err != nil {
		return nil, err
	}
	return d.readable(q.r.Context(), name, q.account)
}

// mine returns the name of the snapshot that a request names, if its sender may change it.
func (q *request) mine(d *datastore) (snapshotName, error) {
	name, err := q.params.snapshotName()
	if err != nil {
		return name, err
	}
	return name, q.mayChange(d, name.group)
}

func (q *request) listFiles(d *datastore) (any, error) {
	s, err := q.one(d)
	if err != nil {
		return nil, err
	}
	return filesOf(s), nil
}

func (q *request) deleteSnapshot(d *datastore) (any, error) {
	name, err := q.mine(d)
	if err != nil {
		return nil, err
	}
	if err := d.forget(q.r.Context(), name); err != nil {
		return nil, err
	}
	q.server.log.Info("snapshot removed", "store", d.Name, "ns", name.ns, "snapshot", name.String(), "by", q.account.Name)
	return nil, nil
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

func (q *request) getNotes(d *datastore) (any, error) {
	s, err := q.one(d)
	if err != nil {
		return nil, err
	}
	m, err := d.manifest(q.r.Context(), s)
	if err != nil {
		return nil, err
	}
	var notes string
	m.Get("notes", &notes)
	return notes, nil
}

func (q *request) putNotes(d *datastore) (any, error) {
	notes, err := q.params.need("notes")
	if err != nil {
		return nil, err
	}
	at, err := q.mine(d)
	if err != nil {
		return nil, err
	}
	ctx := q.r.Context()
	return nil, d.change(ctx, at, func(s *snapshot, h *hold) error {
		m, err := d.manifest(ctx, s)
		if err != nil {
			return err
		}
		if err := m.Set("notes", notes); err != nil {
			return err
		}
		return h.putManifest(ctx, s, m)
	})
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
	g, err := q.params.group()
	if err != nil {
		return nil, err
	}
	if err := q.mayChange(d, g); err != nil {
		return nil, err
	}
	return nil, d.changeGroup(q.r.Context(), g, func(info *groupInfo) error {
		info.Notes = notes
		return nil
	})
}

func (q *request) getProtected(d *datastore) (any, error) {
	s, err := q.one(d)
	if err != nil {
		return nil, err
	}
	return s.Protected, nil
}

func (q *request) putProtected(d *datastore) (any, error) {
	protected, err := q.params.truth("protected")
	if err != nil {
		return nil, err
	}
	m, err := q.mine(d)
	if err != nil {
		return nil, err
	}
	return nil, d.change(q.r.Context(), m, func(s *snapshot, _ *hold) error {
		s.Protected = protected
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
	g, err := q.params.group()
	if err != nil {
		return nil, err
	}
	if err := q.mayChange(d, g); err != nil {
		return nil, err
	}
	return nil, d.changeGroup(q.r.Context(), g, func(info *groupInfo) error {
		info.Owner = owner
		return nil
	})
}

// uploadLog stores the log of a backup, which a client sends after finish.
func (q *request) uploadLog(d *datastore) (any, error) {
	const logName = "client.log.blob"
	name, err := q.params.snapshotName()
	if err != nil {
		return nil, err
	}
	ctx := q.r.Context()
	info, _, err := d.group(ctx, name.group)
	if err != nil {
		return nil, err
	}
	if !q.account.may(d.Name, name.ns, Backup) || !q.account.owns(info.Owner) {
		return nil, forbidden("backup")
	}
	select {
	case q.server.bodies <- struct{}{}:
		defer func() { <-q.server.bodies }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	b, err := io.ReadAll(http.MaxBytesReader(q.w, q.r.Body, format.MaxChunk))
	if err != nil {
		return nil, bodyError(err)
	}
	if _, err := format.ParseBlob(b); err != nil {
		return nil, err
	}
	return nil, d.change(ctx, name, func(s *snapshot, h *hold) error {
		if _, ok := s.file(logName); ok {
			return badRequest("backup already contains a log.")
		}
		stored, err := h.put(ctx, b)
		if err != nil {
			return err
		}
		s.setFile(file{Name: logName, Size: uint64(len(b)), Blob: storedOf(stored)})
		return nil
	})
}

// download sends a file of a snapshot as it is stored.
func (q *request) download(d *datastore) (any, error) {
	name, err := q.params.need("file-name")
	if err != nil {
		return nil, err
	}
	s, err := q.one(d)
	if err != nil {
		return nil, err
	}
	f, ok := s.file(name)
	if !ok {
		return nil, refusal.New(http.StatusNotFound, "no such file: %s", name)
	}
	b, err := f.Blob.digest()
	if err != nil {
		return nil, err
	}
	return sent, d.send(q.r.Context(), q.w, b)
}

func (q *request) datastores() (any, error) {
	items := []map[string]string{}
	for name := range q.server.stores {
		if q.account.sees(name) {
			items = append(items, map[string]string{"store": name})
		}
	}
	slices.SortFunc(items, func(a, b map[string]string) int { return strings.Compare(a["store"], b["store"]) })
	return items, nil
}

func (q *request) status(d *datastore) (any, error) {
	var total, used int64
	if d.Space != nil {
		total, used = d.Space()
	}
	answer := map[string]any{"total": total, "used": used, "avail": max(0, total-used)}
	if verbose, err := q.params.truth("verbose"); err != nil {
		return nil, err
	} else if verbose {
		answer["gc-status"] = d.collectedLast()
	}
	return answer, nil
}
