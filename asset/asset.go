// Package asset is what was pushed under a URI: the Remote Asset API's blobs and directories.
//
// The reference is the comments of remote_asset.proto and its qualifiers.md.
//
// An asset is found by its instance, digest function, kind, one of its URIs, and its qualifiers, all of
// them: the proto lets a server "require exact match of all qualifiers when returning content previously
// pushed". A fetch with fewer would have to choose among several, one with more asks for what nobody vouched
// for. Nothing is downloaded.
//
// # Invariants
//
//   - Complete: no asset is served unless it, what it refers to, and everything below its directories could
//     be leased in one pass.
//   - No asset's record has the key of an action's result, nor the form of one.
//
// # Concurrency
//
// All methods may be called from many goroutines at once. For one URI the last Push wins whole. A Push of
// several URIs writes them one after the other.
//
// # Crashes
//
// A Push is acknowledged only after its records and the blobs that they name are durable
// (blob.Records.Put). One that was not may have written some of its URIs.
package asset

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
)

// A Kind says what an asset is. Each has its own names.
type Kind byte

// The numbers are stored.
const (
	Blob      Kind = 1
	Directory Kind = 2
)

func (k Kind) String() string {
	if k == Directory {
		return "directory"
	}
	return "blob"
}

// A Qualifier tells assets of one URI apart.
type Qualifier struct{ Name, Value string }

// A Name says, with a URI, which asset is meant. The order of qualifiers means nothing.
type Name struct {
	Instance   string
	Function   digest.Function
	Kind       Kind
	Qualifiers []Qualifier
}

// An Asset is what a URI stands for.
type Asset struct {
	Digest digest.Digest
	// References are what Digest's own bytes say they need. They are leased with it.
	References action.References
	// Pushed is when Push was called; Fetch sets it.
	Pushed time.Time
	// Expires is when the asset is not served any more; zero for never.
	Expires time.Time
}

// An Index maps names to assets.
type Index struct {
	store   blob.Store
	records blob.Records
	closure *action.Cache
}

// New returns the index of the assets in records, whose blobs are in store.
func New(store blob.Store, records blob.Records) *Index {
	return &Index{store: store, records: records, closure: action.New(store, records)}
}

// Push makes a what each of uris stands for, in the place of what it stood for. Everything that a names must
// be present, or Push returns a *blob.MissingError.
func (x *Index) Push(ctx context.Context, n Name, uris []string, a Asset) error {
	if err := n.checkPushed(a.Digest); err != nil {
		return err
	}
	a.Pushed = time.Now()
	err := x.closure.Hold(ctx, a.all(n.Kind), func() error {
		for _, uri := range uris {
			id := n.identity(uri)
			if err := x.records.Put(ctx, sha256.Sum256(id), a.append(id)); err != nil {
				return fmt.Errorf("uri %q: %w", uri, err)
			}
		}
		return nil
	})
	if errors.As(err, new(*blob.MissingError)) {
		return fmt.Errorf("the asset needs %w; upload what it needs before it is pushed", err)
	}
	return err
}

// Fetch returns the asset that was pushed last of those that uris stand for, and its URI. It was not pushed
// before oldest, has not expired, and is complete and leased. If there is none, a blob that n's checksum.sri
// names will do, whoever brought it and when. Else Fetch returns blob.ErrNotFound.
func (x *Index) Fetch(ctx context.Context, n Name, uris []string, oldest time.Time) (uri string, a Asset, err error) {
	found, err := x.find(ctx, n, uris, oldest)
	if err != nil {
		return "", Asset{}, err
	}
	sim.Point("asset: records read")
	gone := ""
	for _, f := range found {
		missing, err := x.closure.LeaseReferences(ctx, f.asset.all(n.Kind))
		if err != nil {
			return "", Asset{}, fmt.Errorf("uri %q: %w", f.uri, err)
		}
		if missing.Len() == 0 || mutant.AssetHole {
			return f.uri, f.asset, nil
		}
		gone = fmt.Sprintf("; %q names missing blob %s", f.uri, missing.List()[0])
		if mutant.AssetDropLatest {
			if rec, err := x.records.Get(ctx, f.key); err == nil {
				f.incarnation = rec.Incarnation
			}
		}
		if err := x.records.Drop(ctx, f.key, f.incarnation); err != nil {
			return "", Asset{}, err
		}
	}
	d, ok, err := x.bySum(ctx, n)
	if err != nil {
		return "", Asset{}, err
	}
	if ok {
		return uris[0], Asset{Digest: d}, nil
	}
	return "", Asset{}, fmt.Errorf("%w: no %s was pushed for any of the uris with these qualifiers%s; nothing is downloaded here", blob.ErrNotFound, n.Kind, gone)
}

// A candidate is an asset that will do if it is complete.
type candidate struct {
	uri         string
	asset       Asset
	key         [32]byte
	incarnation uint64
}

// find returns what uris stand for that is neither expired nor older than oldest, newest first.
func (x *Index) find(ctx context.Context, n Name, uris []string, oldest time.Time) ([]candidate, error) {
	var found []candidate
	now := time.Now()
	for _, uri := range uris {
		id := n.identity(uri)
		key := sha256.Sum256(id)
		rec, err := x.records.Get(ctx, key)
		if errors.Is(err, blob.ErrNotFound) || errors.Is(err, blob.ErrCorrupt) {
			continue
		}
		if err != nil {
			return nil, err
		}
		a, err := parse(n.Function, id, rec.Value)
		if err != nil {
			return nil, fmt.Errorf("uri %q: %w", uri, err)
		}
		expired := !a.Expires.IsZero() && !now.Before(a.Expires)
		if !expired && !a.Pushed.Before(oldest) {
			found = append(found, candidate{uri, a, key, rec.Incarnation})
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int { return b.asset.Pushed.Compare(a.asset.Pushed) })
	return found, nil
}

// all returns what must be there for a to be served.
func (a *Asset) all(k Kind) action.References {
	refs := action.References{Function: a.Digest.Function, Blobs: a.References.Blobs, Directories: a.References.Directories}
	if k == Directory {
		refs.Directories = append([]digest.Digest{a.Digest}, refs.Directories...)
	} else {
		refs.Blobs = append([]digest.Digest{a.Digest}, refs.Blobs...)
	}
	return refs
}

// identity returns what the record of uri begins with, and whose SHA-256 is its key. Every part is preceded
// by its length, so that no two names run together.
func (n Name) identity(uri string) []byte {
	b := append([]byte(action.NoResult), "asset\x00"...)
	b = appendText(b, n.Instance)
	b = append(b, byte(n.Function), byte(n.Kind))
	b = appendText(b, uri)
	b = binary.AppendUvarint(b, uint64(len(n.Qualifiers)))
	sorted := slices.SortedFunc(slices.Values(n.Qualifiers), func(p, q Qualifier) int {
		return cmp.Or(strings.Compare(p.Name, q.Name), strings.Compare(p.Value, q.Value))
	})
	for _, q := range sorted {
		b = appendText(appendText(b, q.Name), q.Value)
	}
	return b
}

func appendText(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}
