package backup

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

// What a repository keeps is in roots, whose names begin with its prefix.

// kept returns the root of that name, if there is one.
func (q *request) kept(root string) (blob.Root, bool, error) {
	r, err := blob.KeptRoot(q.r.Context(), q.Keeper, root)
	if errors.Is(err, blob.ErrNotFound) {
		return r, false, nil
	}
	return r, err == nil, err
}

// holds reports whether a root keeps one blob, and this one.
func holds(r blob.Root, d digest.Digest) bool {
	return len(r.Few) == 1 && r.Few[0] == d || len(r.Few) == 0 && r.Count == 0 && d.IsEmpty()
}

// keep makes a root of what was uploaded whole, if it still is what it was, also when the client does not wait for the
// answer any more. What is new is kept on no condition: the names of restic's files are the hashes of what is in them, so
// that whoever else makes one makes the same.
func (q *request) keep(root string, was blob.Root, there bool, d digest.Digest) error {
	ctx := context.WithoutCancel(q.r.Context())
	if !there {
		return q.Keeper.Keep(ctx, root, nil, digest.SetOf(d))
	}
	return q.Keeper.KeepIf(ctx, root, &was, nil, digest.SetOf(d))
}

// replace stores d, which store does, and makes the root keep it in place of what it kept. may refuses by what the root
// was: before anything is stored, and once more when nobody else changes the root.
func (q *request) replace(root string, d digest.Digest, store func() error, may func(was blob.Root, there bool) error) error {
	look := func() (was blob.Root, there bool, err error) {
		if was, there, err = q.kept(root); err == nil {
			err = may(was, there)
		}
		return was, there, err
	}
	was, _, err := look()
	if err != nil {
		return err
	}
	share, err := q.take(d.Size - was.Bytes)
	if err != nil {
		return err
	}
	defer share.giveBack()
	if err := store(); err != nil {
		return err
	}
	done, err := q.turns.Take(q.r.Context(), root)
	if err != nil {
		return err
	}
	defer done()
	return blob.WhileChanged(q.r.Context(), func() error {
		was, there, err := look()
		if err != nil {
			return err
		}
		if err := q.more(share, d.Size-was.Bytes); err != nil { // it may have been deleted meanwhile
			return err
		}
		// What is there is kept again: its bytes may have turned out to be damaged, and been healed just now.
		if err := q.keep(root, was, there, d); err != nil {
			return err
		}
		share.becomes(d.Size - was.Bytes)
		return nil
	})
}

// deletes returns a share of nothing and the turn to change a root, which done ends.
func (q *request) deletes(root string) (s *share, done func(), err error) {
	if s, err = q.take(0); err != nil {
		return nil, nil, err
	}
	done, err = q.turns.Take(q.r.Context(), root)
	return s, done, err
}

// remove answers DELETE: what a root kept is kept no more.
func (q *request) remove(root string, may bool) error {
	if !may {
		return q.appendOnly()
	}
	s, done, err := q.deletes(root)
	if err != nil {
		return err
	}
	defer done()
	kept, there, err := q.kept(root)
	if err != nil {
		return err
	}
	// What is not there is let go too: clients delete what they could not store, which a restart might find.
	if err := q.Keeper.Release(context.WithoutCancel(q.r.Context()), root); err != nil {
		return err
	}
	if !there {
		return fmt.Errorf("%w: there is no such file", blob.ErrNotFound)
	}
	s.becomes(-kept.Bytes)
	return nil
}

// appendOnly refuses to delete.
func (q *request) appendOnly() error {
	return refusal.New(http.StatusForbidden, "%s is append-only: nothing is deleted with this token", q.prefix())
}
