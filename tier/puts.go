package tier

import (
	"context"
	"sync"
)

// puts knows which records are being put, and which ones come near from the far store, so that an older value which
// comes from there never takes the place of a newer one that was put meanwhile (seed 001, lost update).
type puts struct {
	mu   sync.Mutex
	keys map[[32]byte]*putting
}

// A putting is what goes on with one record.
type putting struct {
	users   int
	puts    int           // under way
	changes int           // puts that began or ended
	filling chan struct{} // closed when the value from the far store is near; nil if there is none
}

func (p *puts) enter(key [32]byte) *putting {
	k := p.keys[key]
	if k == nil {
		if p.keys == nil {
			p.keys = map[[32]byte]*putting{}
		}
		k = &putting{}
		p.keys[key] = k
	}
	k.users++
	return k
}

func (p *puts) leave(key [32]byte, k *putting) {
	if k.users--; k.users == 0 {
		delete(p.keys, key)
	}
}

// put does a put, before or after which the value from the far store comes near, or it does not come.
func (p *puts) put(ctx context.Context, key [32]byte, do func() error) error {
	p.mu.Lock()
	k := p.enter(key)
	k.puts++
	k.changes++
	filling := k.filling
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		k.puts--
		k.changes++
		p.leave(key, k)
	}()
	if filling != nil {
		select {
		case <-filling:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return do()
}

// read begins to read a record from the far store, and returns what fills the near one with it: not if it was put
// since, or somebody else fills. end must be called.
func (p *puts) read(key [32]byte) (fill func(do func()), end func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.enter(key)
	seen := k.changes
	end = func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.leave(key, k)
	}
	return func(do func()) {
		p.mu.Lock()
		if k.changes != seen || k.puts > 0 || k.filling != nil {
			p.mu.Unlock()
			return
		}
		filled := make(chan struct{})
		k.filling = filled
		p.mu.Unlock()
		do()
		p.mu.Lock()
		k.filling = nil
		p.mu.Unlock()
		close(filled)
	}, end
}
