package s3

import (
	"sync"

	"github.com/sarsen-build/sarsen/ledger"
)

// An ids gives sessions small numbers, so that a place is 64 bits.
type ids struct {
	mu     sync.Mutex
	names  []string
	number map[string]uint64
}

// sessionBits is how many bits of a place say which session it was. The greater part is n, since of a record the
// greatest place stands.
const sessionBits = 20

// place returns the ledger's name of an incarnation, or zero if there are too many sessions.
func (t *ids) place(i incarnation) ledger.Place {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, ok := t.number[i.session]
	if !ok {
		n = uint64(len(t.names))
		if n >= 1<<sessionBits {
			return 0
		}
		if t.number == nil {
			t.number = map[string]uint64{}
		}
		t.number[i.session] = n
		t.names = append(t.names, i.session)
	}
	return ledger.Place(i.n<<sessionBits | n)
}

// at returns what lies at a place that place gave.
func (t *ids) at(k ledger.Key, size int64, p ledger.Place) incarnation {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := incarnation{key: k, size: size, session: t.names[p&(1<<sessionBits-1)], n: uint64(p >> sessionBits)}
	if k.Kind == ledger.Record {
		i.size = 0
	}
	return i
}
