package s3

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/ledger"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// rootKind tells frames of roots from those of blobs and records.
const rootKind ledger.Kind = 0xfe

func rootKey(name string) ledger.Key {
	return ledger.Key{Kind: rootKind, Hash: sha256.Sum256([]byte(name))}
}

// eachRoot calls do with all objects of each root below a prefix, the newest last, and returns what time it is, by the
// server's clock.
func (s *Store) eachRoot(ctx context.Context, prefix string, do func(objects []bucket.Object)) (date time.Time, err error) {
	var root string
	var objects []bucket.Object // of root
	date, err = bucket.All(ctx, s.bucket, prefix, func(page []bucket.Object) error {
		for _, o := range page {
			which, _, _, ok := splitRoot(o.Key)
			if !ok {
				continue
			}
			// Keys come in order: those of one root are neighbours, and the greatest comes last.
			if which != root && len(objects) > 0 {
				do(objects)
				objects = nil
			}
			root, objects = which, append(objects, o)
		}
		return nil
	})
	if err == nil && len(objects) > 0 {
		do(objects)
	}
	return date, err
}

// newestRoots returns the greatest key of each root below a prefix.
func (s *Store) newestRoots(ctx context.Context, prefix string) (newest []string, err error) {
	_, err = s.eachRoot(ctx, prefix, func(objects []bucket.Object) {
		newest = append(newest, objects[len(objects)-1].Key)
	})
	return newest, err
}

// newestRoot returns the greatest key of the one root whose keys have a prefix, or "" if there is none.
func (s *Store) newestRoot(ctx context.Context, prefix string) (string, error) {
	keys, err := s.newestRoots(ctx, prefix)
	if err != nil || len(keys) == 0 {
		return "", err
	}
	return keys[0], nil
}

// nameOfRoot returns the name in a root's key, or if the key does not have the whole of it, in the object.
func (s *Store) nameOfRoot(ctx context.Context, key string) (string, error) {
	which, _, _, _ := splitRoot(key)
	if !strings.Contains(which, "~") {
		return url.PathUnescape(strings.TrimSuffix(strings.TrimPrefix(which, roots), emptyPart))
	}
	k := s.knownKept(ctx, key)
	return k.Name, k.err
}

// knownKept is readKept of a root that may be remembered. What a collection decides by is read anew.
func (s *Store) knownKept(ctx context.Context, key string) kept {
	if k, ok := s.rootCache.get(key); ok {
		return k
	}
	k := s.readKept(ctx, key)
	if k.err == nil && k.Name != "" {
		k.Value, k.Few = slices.Clip(k.Value), slices.Clip(k.Few) // they are shared: nobody appends in place
		s.rootCache.put(k.key, k)
	}
	return k
}

// A kept is a root as it was read.
type kept struct {
	blob.Root
	key  string
	none bool // it was released, or is gone
	err  error
}

// readKept reads a root, or what superseded it meanwhile.
func (s *Store) readKept(ctx context.Context, key string) (k kept) {
	for range 3 {
		k = kept{key: key}
		var b []byte
		b, _, k.err = s.bucket.Get(ctx, key, 0, -1)
		if !errors.Is(k.err, bucket.ErrNotFound) {
			if k.err == nil {
				k.Root, k.none, k.err = decodeRootObject(key, b)
			}
			return k
		}
		which, _, _, _ := splitRoot(key)
		newest, err := s.newestRoot(ctx, which+".")
		if err != nil || newest == "" {
			return kept{key: key, none: true, err: err}
		}
		key = newest
	}
	return k
}

func decodeRootObject(key string, b []byte) (r blob.Root, released bool, err error) {
	f, err := decodeFrame(b)
	if err == nil && f.key.Kind != rootKind {
		err = blob.ErrCorrupt
	}
	var value []byte
	if err == nil {
		value, err = open(f.key, b)
	}
	if err == nil {
		r, released, err = blob.DecodeRoot(value)
	}
	if err == nil && f.key != rootKey(r.Name) {
		err = blob.ErrCorrupt
	}
	if err != nil {
		err = fmt.Errorf("root %s: %w", key, err)
	}
	return r, released, err
}

// aheadBy is how many requests of a sequence are made before their answers are wanted.
const aheadBy = 16

// ahead yields for each of in a function that returns do of it. Some are done ahead.
func ahead[In, Out any](in []In, do func(In) Out) iter.Seq2[int, func() Out] {
	return func(yield func(int, func() Out) bool) {
		answers := make([]chan Out, len(in))
		begin := func(i int) {
			answers[i] = make(chan Out, 1)
			go func() { answers[i] <- do(in[i]) }()
		}
		for i := range in {
			for next := i; next < min(len(in), i+aheadBy); next++ {
				if answers[next] == nil {
					begin(next)
				}
			}
			if !yield(i, func() Out { return <-answers[i] }) {
				return
			}
		}
	}
}
