package pbs

import (
	"context"
	"io"
	"net/http"

	"github.com/sarsen-build/sarsen/backup/pbs/format"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

// The REST calls about snapshots.

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

// readable returns a snapshot that a may read.
func (d *datastore) readable(ctx context.Context, name snapshotName, a *Account) (*snapshot, error) {
	snap, err := d.snapshot(ctx, name)
	if err != nil {
		if !a.may(d.Name, name.ns, Read) && !a.may(d.Name, name.ns, Backup) {
			return nil, forbidden("read")
		}
		return nil, err
	}
	owner := snap.Owner
	if info, ok, err := d.group(ctx, name.group); err != nil {
		return nil, err
	} else if ok {
		owner = info.Owner
	}
	if !a.mayRead(d.Name, name.ns, owner) {
		return nil, forbidden("read")
	}
	return snap, nil
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
