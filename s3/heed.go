package s3

import (
	"context"
	"errors"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/ledger"
)

// heed lets go of what the register says may be deleted, and forgets what it does not say any more.
func (s *Store) heed(ctx context.Context, l *life, r register, asked ledger.Quarter) error {
	l.saw(r.Epoch, asked)
	open := map[string]bool{}
	if r.Proposal != "" {
		open[r.Proposal] = true
	}
	for _, v := range r.Verdicts {
		open[v.Key] = true
	}
	for key := range open {
		if l.hasHeeded(key) {
			continue
		}
		p, err := s.readProposal(ctx, key)
		if errors.Is(err, blob.ErrCorrupt) {
			s.log.Error("what may be deleted is not known, so nothing that is found in the bucket is taken up", "damaged", key)
			l.adoptNothing(key)
			continue
		}
		if err != nil {
			return err
		}
		l.letGoOf(key, p, key == r.Proposal)
	}
	l.forget(r.Serial, open)
	return nil
}

// hasHeeded reports whether the session let go of what a document names.
func (l *life) hasHeeded(key string) bool {
	l.door <- struct{}{}
	defer func() { <-l.door }()
	return l.letGo[key] != nil
}

// adoptNothing lets nothing be adopted until a document that is damaged is not open any more. It gets no answer.
func (l *life) adoptNothing(document string) {
	l.door <- struct{}{}
	defer func() { <-l.door }()
	l.unread[document] = true
	l.adds++
}

// readAgain ends what adoptNothing began. The caller holds the door.
func (l *life) readAgain(document string) {
	delete(l.unread, document)
	l.drops++
	l.lost.Store(true)
}

// forget drops what was let go for documents that are not open any more, unless something newer was heeded already.
func (l *life) forget(serial int, open map[string]bool) {
	l.door <- struct{}{}
	defer func() { <-l.door }()
	if serial < l.heeded {
		return
	}
	l.heeded = serial
	var over []*answer
	for key := range l.unread {
		if !open[key] {
			l.readAgain(key)
		}
	}
	for key := range l.letGo {
		if !open[key] {
			delete(l.letGo, key)
			l.drops++
		}
	}
	l.mu.Lock()
	for key, a := range l.answers {
		if !open[key] {
			delete(l.answers, key)
			over = append(over, a)
		}
	}
	l.mu.Unlock()
	for _, a := range over {
		for _, key := range a.forgot {
			if !l.gone(key) {
				l.lost.Store(true)
			}
		}
	}
}

// saw notes that the register had an epoch when it was asked, or later. A collection reads roots only when its epoch has
// begun. So the last time that an earlier one was seen is the floor: a root that was there then will be read, and what
// others name was leased since.
func (l *life) saw(epoch int, asked ledger.Quarter) {
	l.door <- struct{}{}
	defer func() { <-l.door }()
	switch {
	case epoch > l.epoch:
		l.epoch, l.floor, l.lastSeen = epoch, l.lastSeen, asked
	case epoch == l.epoch:
		l.lastSeen = max(l.lastSeen, asked)
	}
}

// letGoOf lets go of what a proposal names, but for what it must refuse: what is leased, held or on its way. From then
// on nothing of it is adopted. Of a second copy the survivor takes the place, with its leases and pins. What a verdict
// names was let go of before, or was never here.
func (l *life) letGoOf(document string, p proposal, ask bool) {
	l.door <- struct{}{}
	defer func() { <-l.door }()
	if l.letGo[document] != nil {
		return
	}
	keys := p.keys()
	a := &answer{}
	floor := l.floor
	if epochOf(document) != l.epoch {
		floor = 1 // hold what was ever leased
	}
	for _, named := range p.lines {
		if !ask {
			continue
		}
		switch agreed, forgot := l.condemn(named, p.force, floor); {
		case !agreed:
			a.refused = append(a.refused, named.key)
			delete(keys, named.key)
		case forgot:
			a.forgot = append(a.forgot, named.key)
		}
	}
	l.letGo[document] = keys
	l.adds++
	if l.unread[document] { // it came damaged, and is not
		l.readAgain(document)
	}
	if ask {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.answers[document] = a
	}
}

// condemn makes the ledger forget an incarnation. It reports whether the ledger does not name it any more, and whether
// it did. The caller holds the door.
func (l *life) condemn(named line, force bool, floor ledger.Quarter) (agreed, forgot bool) {
	i, ok := parseName(named.key)
	if !ok {
		return true, false
	}
	if l.defended(named.key) {
		return false, false
	}
	p := l.ids.place(i)
	if p == 0 {
		return true, false // it could not be adopted
	}
	if l.spoilt[named.survivor] {
		return false, false
	}
	if survivor, ok := parseName(named.survivor); ok && survivor.key == i.key && survivor.size == i.size {
		if to := l.ids.place(survivor); to != 0 && l.ledger.Move(i.key, p, to, always) {
			return true, false
		}
	}
	switch l.ledger.CondemnBefore(i.key, p, force, floor) {
	case ledger.Held, ledger.Warm:
		return mutant.RefusalsIgnored, false
	case ledger.Condemned:
		return true, true
	}
	return true, false
}

func always() (ok, recorded bool) { return true, true }
