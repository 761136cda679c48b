// Package stage makes the input tree of an action: fresh directories, and hard links to stored files.
//
// Stage resolves the tree, which is a walk through the directory cache and a fetch of what is not in it;
// then makes directories, parents first, and links files out of the file store, several at a time. What
// the file store lacks is fetched meanwhile and linked as it arrives.
//
// # The directory cache
//
// Every directory of every tree, the root included, is kept under its digest in resolved form: names,
// digests and bits, checked once. A tree whose root is known is staged without a question to anybody.
// One that differs in one directory asks for that one and for those on the way to it.
//
// The cache keeps no directories of links on the disk. A hit costs a mkdir for each directory and a
// linkat for each file, wherever the links come from; links from a cached tree would need a readdir more,
// and each cached tree as many inodes and directory entries as a staged one. So links are made
// straight from the file store, each under a pin, and the cache is a list: in memory, and in one file from
// which the next process reads it. The list names no file of the store, so neither can be stale: what was
// evicted between lookup and link is fetched again.
//
// # Invariants
//
//   - A staged tree is exactly its directory messages: fresh directories that may be written to, read-only
//     files (0444, 0555 if executable), symbolic links as they are. Or there is no tree.
//   - Nothing is made of a tree that is not valid: errors that wrap blob.ErrInvalid name directory and name.
//   - Nothing is believed that does not hash to its digest: not the source, not the cache's file.
//   - HandOver: of several who want one directory or blob one fetches; if he fails, another one does. His
//     error is his own.
//
// # Concurrency
//
// Stage may be called from many goroutines. Who waits for another's fetch holds neither a fetch of his own
// nor a part of the budget. Mutexes guard memory only. One goroutine, the keeper, writes the cache's file.
//
// # Crashes
//
// The file is a log of directory messages, each with a checksum, under a header with the format's version.
// Start-up reads up to the first record that is torn, and starts anew under another header. What was not
// written is fetched again. Work directories are the caller's to remove.
package stage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/files"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// A Source is where directories and files come from.
type Source interface {
	blob.Batcher
	// Tree returns every directory below root, root included, by digest. What it does not return is asked
	// for again with GetAll, whatever the error.
	Tree(ctx context.Context, root digest.Digest) (map[digest.Digest]*repb.Directory, error)
}

// Options say where a Stager works and how much it keeps.
type Options struct {
	Dir    string       // the directory cache's file lies in its folder cache
	Files  *files.Store // on the file system of the work directories, or each file is copied
	Source Source

	MaxBytes   int64 // of the cached directory messages; memory is about the same. 0 is 256 MiB
	MaxEntries int   // directories in the cache; 0 is 500,000
	MaxNodes   int64 // of one tree, a directory that is named twice counted twice; 0 is 1,000,000
	InFlight   int64 // bytes that are being fetched by all Stage calls; 0 is 64 MiB
	Log        *slog.Logger
}

// A Stager makes input trees.
type Stager struct {
	o      Options
	fsys   vfs.LinkFS
	cache  *cache
	keeper *keeper
	budget *budget
	trees  flights[digest.Digest] // of directories
	blobs  flights[digest.Key]    // of files
	totals totals
}

// Stats say what one Stage call did.
type Stats struct {
	Directories, Files, Symlinks int64 // that were made
	Known, Resolved              int64 // distinct directories: out of the cache, and fetched
	Linked                       int64 // files that the store had
	Fetched, FetchedBytes        int64 // distinct blobs, by this call
	Awaited                      int64 // distinct blobs that another call fetched meanwhile
	Private                      int64 // files that are no links, because the store had no room
	Resolve, Total               time.Duration
}

// Totals are what a Stager has and did since it was opened.
type Totals struct {
	Entries, Bytes, Evicted int64 // directories in the cache
	Trees, Hits, Failed     int64 // staged; those of which nothing was fetched; not staged
	Known, Resolved         int64 // directories, as in Stats
	Linked, Fetched         int64 // files, as in Stats
}

type totals struct {
	trees, hits, failed, known, resolved, linked, fetched atomic.Int64
}

// Open opens a Stager and reads what the last one knew. If another process has the directory, the error
// wraps files.ErrLocked.
func Open(o Options) (*Stager, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.MaxBytes = orElse(o.MaxBytes, 256<<20)
	o.MaxEntries = int(orElse(int64(o.MaxEntries), 500_000))
	o.MaxNodes = orElse(o.MaxNodes, 1_000_000)
	o.InFlight = orElse(o.InFlight, 64<<20)
	s := &Stager{
		o: o, fsys: vfs.OS{},
		cache:  newCache(o.MaxEntries, o.MaxBytes),
		budget: newBudget(o.InFlight),
	}
	var err error
	if s.keeper, err = openKeeper(s.fsys, filepath.Join(o.Dir, "cache"), s.cache, o.Log); err != nil {
		return nil, fmt.Errorf("open the directory cache: %w", err)
	}
	return s, nil
}

func orElse(n, standard int64) int64 {
	if n > 0 {
		return n
	}
	return standard
}

// Close writes what is not written yet. No call of Stage may be under way.
func (s *Stager) Close() error { return s.keeper.close() }

// Totals returns what the Stager has and did.
func (s *Stager) Totals() Totals {
	entries, bytes, evicted := s.cache.size()
	return Totals{
		Entries: entries, Bytes: bytes, Evicted: evicted,
		Trees: s.totals.trees.Load(), Hits: s.totals.hits.Load(), Failed: s.totals.failed.Load(),
		Known: s.totals.known.Load(), Resolved: s.totals.resolved.Load(),
		Linked: s.totals.linked.Load(), Fetched: s.totals.fetched.Load(),
	}
}

// Stage makes the tree root at into, which must not exist, in a directory that does. If it fails, there is
// nothing at into. Blobs that the source lacks are a *blob.MissingError, and trees that must not be made wrap
// blob.ErrInvalid.
func (s *Stager) Stage(ctx context.Context, root digest.Digest, into string) (Stats, error) {
	start := time.Now()
	stats, err := s.stage(ctx, root, into)
	stats.Total = time.Since(start)
	if err != nil {
		s.totals.failed.Add(1)
		return stats, fmt.Errorf("stage %s: %w", root, err)
	}
	s.totals.trees.Add(1)
	s.totals.known.Add(stats.Known)
	s.totals.resolved.Add(stats.Resolved)
	s.totals.linked.Add(stats.Linked)
	s.totals.fetched.Add(stats.Fetched)
	if stats.Resolved+stats.Fetched+stats.Awaited == 0 {
		s.totals.hits.Add(1)
	}
	s.o.Log.Debug("staged", "root", root, "directories", stats.Directories, "known", stats.Known, "resolved", stats.Resolved,
		"files", stats.Files, "fetched", stats.Fetched, "bytes", stats.FetchedBytes, "resolve", stats.Resolve, "total", stats.Total)
	return stats, nil
}

func (s *Stager) stage(ctx context.Context, root digest.Digest, into string) (Stats, error) {
	var stats Stats
	start := time.Now()
	p, err := s.resolve(ctx, root)
	defer s.cache.release(p)
	stats.Known, stats.Resolved, stats.Resolve = p.known, p.resolved, time.Since(start)
	if err != nil {
		return stats, err
	}
	if p.missing.Len() > 0 {
		return stats, s.missing(ctx, p, p.missing.List())
	}
	if err := p.check(s.o.MaxNodes); err != nil {
		return stats, err
	}
	parent, err := s.fsys.OpenDir(filepath.Dir(into))
	if err != nil {
		return stats, err
	}
	defer parent.Close()
	name := filepath.Base(into)
	if err := parent.MakeDir(name); err != nil {
		return stats, err
	}
	if err := s.build(ctx, p, parent, name, &stats); err != nil {
		return stats, errors.Join(err, parent.RemoveAll(name))
	}
	return stats, nil
}

// build makes the tree in the directory name of parent.
func (s *Stager) build(ctx context.Context, p *plan, parent vfs.Dir, name string, stats *Stats) error {
	top, err := parent.Sub(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f := newFetch(ctx, cancel, s, top)
	b := newBuilder(ctx, cancel, s, p, f)
	b.run(top, runtime.GOMAXPROCS(0))
	f.wait()
	err = context.Cause(ctx) // the first error; others only followed from it
	b.count(stats)
	f.count(stats)
	if lost := f.lost(); len(lost) > 0 {
		err = s.missing(context.WithoutCancel(ctx), p, lost)
	}
	if closed := top.Close(); err == nil {
		err = closed
	}
	return err
}

// missing returns a blob.MissingError with all that the source lacks of a tree: what was not found, and what the
// source says when it is asked for the rest.
func (s *Stager) missing(ctx context.Context, p *plan, found []digest.Digest) error {
	if mutant.FirstMissing {
		return &blob.MissingError{Blobs: found[:1]}
	}
	all := digest.SetOf(found...)
	var ask digest.Set
	for _, n := range p.nodes {
		for i := range n.files {
			if d := n.files[i].digest; !d.IsEmpty() && !all.Has(d) {
				ask.Add(d)
			}
		}
	}
	ask, err := s.o.Files.Missing(ctx, ask)
	if err == nil {
		ask, err = s.o.Source.Missing(ctx, ask)
	}
	if err != nil {
		s.o.Log.Debug("could not ask what else is missing", "error", err)
		ask = digest.Set{} // what is known to be missing is answer enough
	}
	for _, d := range ask.List() {
		all.Add(d)
	}
	return fmt.Errorf("the inputs are not all there: they name %w", &blob.MissingError{Blobs: all.List()})
}
