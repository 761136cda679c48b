package s3

import (
	"slices"
	"strings"

	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/ledger"
)

// adopt lets the ledger name what lies in the bucket, unless it may be deleted. drops is what l.drops was before it was
// looked for: if sets were dropped since, what was seen may have been deleted meanwhile, and adopt does nothing.
func (l *life) adopt(drops uint64, found []incarnation, fresh bool) (ok bool) {
	l.door <- struct{}{}
	defer func() { <-l.door }()
	if l.drops != drops {
		return false
	}
	if !mutant.AdoptBlind {
		found = slices.DeleteFunc(found, func(i incarnation) bool { return l.gone(i.name()) || l.spoilt[i.name()] })
	}
	batch := make([]ledger.Found, 0, len(found))
	for _, i := range found {
		p := l.ids.place(i)
		switch {
		case p == 0:
		case fresh: // nobody was told anything yet
			batch = append(batch, ledger.Found{Key: i.key, Size: i.size, Place: p})
		default:
			l.ledger.Adopt(i.key, i.size, p)
		}
	}
	l.ledger.Restore(batch...)
	return true
}

// gone reports whether a key may be deleted. The caller holds the door.
func (l *life) gone(name string) bool {
	if len(l.unread) > 0 {
		return true // it may be
	}
	for _, keys := range l.letGo {
		if keys[name] {
			return true
		}
	}
	return false
}

// undecided reports whether a collection asks for i and has given no verdict on it yet, as far as this session knows.
func (l *life) undecided(i incarnation) bool {
	l.door <- struct{}{}
	defer func() { <-l.door }()
	asked := len(l.unread) > 0
	for document, keys := range l.letGo {
		switch {
		case !keys[i.name()]:
		case strings.HasPrefix(document, verdicts):
			return false
		default:
			asked = true
		}
	}
	return asked
}

// spoil remembers that an object's bytes are damaged.
func (l *life) spoil(name string) {
	l.door <- struct{}{}
	defer func() { <-l.door }()
	l.spoilt[name] = true
}

// changeCount returns how often sets were dropped and added.
func (l *life) changeCount() uint64 {
	l.door <- struct{}{}
	defer func() { <-l.door }()
	return l.drops + l.adds
}

// dropCount returns how often sets were dropped.
func (l *life) dropCount() uint64 {
	l.door <- struct{}{}
	defer func() { <-l.door }()
	return l.drops
}
