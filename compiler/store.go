package compiler

import (
	"context"
	"errors"
	"sync"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/compiler/args"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/segment"
	"github.com/sarsen-build/sarsen/upstream"
)

// maxManifests bounds how many manifests are kept decoded in memory.
const maxManifests = 20_000

// manifestFile is the name of the only output of an action that is a manifest.
const manifestFile = "manifest"

// An output is a file of an entry.
type output struct {
	kind args.Kind
	data []byte
}

// An entry is everything that a compile gave.
type entry struct {
	outputs        []output
	stdout, stderr []byte
}

// entries keeps entries and manifests: in a ring here, and on a server too if there is one. Both are
// action results, so that each is there with all that it names or not at all.
type entries struct {
	ring   *segment.Ring
	cache  *action.Cache
	remote *remote // nil if there is none

	mu        sync.Mutex // never held while something is read or written
	manifests map[digest.Digest]*manifest
	slots     [64]chan struct{} // who changes a manifest of that slot
}

func newEntries(ring *segment.Ring, r *remote) *entries {
	e := &entries{ring: ring, cache: action.New(ring, ring), remote: r, manifests: map[digest.Digest]*manifest{}}
	for i := range e.slots {
		e.slots[i] = make(chan struct{}, 1)
	}
	return e
}

// get returns the entry of a key. far says that it came from the server.
func (s *entries) get(ctx context.Context, k digest.Digest) (e *entry, far bool, err error) {
	r, err := s.cache.Get(ctx, action.Key{Action: k})
	if err == nil {
		e, err = s.read(ctx, r)
	}
	if err == nil || s.remote == nil || ctx.Err() != nil {
		return e, false, err
	}
	r, err = s.remote.get(ctx, k)
	if err != nil {
		return nil, true, err
	}
	if err := s.fetch(ctx, r, maxOutput); err != nil {
		return nil, true, err
	}
	e, err = s.read(ctx, r)
	if err == nil {
		s.cache.Put(ctx, action.Key{Action: k}, r) // what could not be kept is fetched again
	}
	return e, true, err
}

// digestsOf returns the blobs that a result names, in the order of its outputs, then stdout and stderr.
func digestsOf(r *repb.ActionResult) ([]digest.Digest, error) {
	var ds []digest.Digest
	add := func(p *repb.Digest) error {
		d, err := upstream.FromProto(digest.SHA256, p)
		ds = append(ds, d)
		return err
	}
	for _, f := range r.OutputFiles {
		if err := add(f.Digest); err != nil {
			return nil, err
		}
	}
	for _, p := range []*repb.Digest{r.StdoutDigest, r.StderrDigest} {
		if p == nil {
			ds = append(ds, digest.SHA256.Empty())
		} else if err := add(p); err != nil {
			return nil, err
		}
	}
	return ds, nil
}

// read returns the entry that a result describes.
func (s *entries) read(ctx context.Context, r *repb.ActionResult) (*entry, error) {
	ds, err := digestsOf(r)
	if err != nil {
		return nil, err
	}
	data, errs := s.ring.GetAll(ctx, ds)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	e := &entry{}
	for i, f := range r.OutputFiles {
		e.outputs = append(e.outputs, output{args.Kind(f.Path), data[i]})
	}
	e.stdout, e.stderr = data[len(data)-2], data[len(data)-1]
	return e, nil
}

// put keeps an entry. The blobs travel in one write.
func (s *entries) put(ctx context.Context, k digest.Digest, e *entry) error {
	r := &repb.ActionResult{}
	var ds []digest.Digest
	var data [][]byte
	add := func(b []byte) *repb.Digest {
		d := digest.SHA256.Of(b)
		ds, data = append(ds, d), append(data, b)
		return upstream.ToProto(d)
	}
	for _, o := range e.outputs {
		r.OutputFiles = append(r.OutputFiles, &repb.OutputFile{Path: string(o.kind), Digest: add(o.data)})
	}
	if len(e.stdout) > 0 {
		r.StdoutDigest = add(e.stdout)
	}
	if len(e.stderr) > 0 {
		r.StderrDigest = add(e.stderr)
	}
	return s.putResult(ctx, k, r, ds, data)
}

func (s *entries) putResult(ctx context.Context, k digest.Digest, r *repb.ActionResult, ds []digest.Digest, data [][]byte) error {
	if mutant.ResultFirst {
		if err := s.cache.Put(ctx, action.Key{Action: k}, r); err != nil {
			return err
		}
	}
	if err := errors.Join(s.ring.PutAll(ctx, ds, data)...); err != nil {
		return err
	}
	if err := s.cache.Put(ctx, action.Key{Action: k}, r); err != nil {
		return err
	}
	if s.remote != nil {
		s.remote.upload(k, r, ds)
	}
	return nil
}

// manifest returns the manifest of a key, nil if there is none here. It is not to be changed.
func (s *entries) manifest(ctx context.Context, k digest.Digest) *manifest {
	s.mu.Lock()
	m := s.manifests[k]
	s.mu.Unlock()
	if m != nil {
		return m
	}
	r, err := s.cache.Get(ctx, action.Key{Action: k})
	if err != nil {
		return nil
	}
	if m, err = s.manifestIn(ctx, r); err != nil {
		return nil
	}
	s.keep(k, m)
	return m
}

// manifestIn returns the manifest whose action result is r.
func (s *entries) manifestIn(ctx context.Context, r *repb.ActionResult) (*manifest, error) {
	if len(r.OutputFiles) != 1 || r.OutputFiles[0].Path != manifestFile {
		return nil, errManifest
	}
	d, err := upstream.FromProto(digest.SHA256, r.OutputFiles[0].Digest)
	if err != nil {
		return nil, err
	}
	if d.Size > maxManifestSize {
		return nil, errManifest
	}
	b, err := blob.Get(ctx, s.ring, d)
	if err != nil {
		return nil, err
	}
	return decodeManifest(b)
}

// maxManifestSize bounds what is read of a manifest, in bytes.
const maxManifestSize = 64 << 20

func (s *entries) keep(k digest.Digest, m *manifest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.manifests) >= maxManifests {
		clear(s.manifests) // they are in the ring
	}
	s.manifests[k] = m
}

// farManifest fetches the server's manifest of a key and merges it into the one here.
func (s *entries) farManifest(ctx context.Context, k digest.Digest) (*manifest, error) {
	if s.remote == nil {
		return nil, blob.ErrNotFound
	}
	r, err := s.remote.get(ctx, k)
	if err != nil {
		return nil, err
	}
	if err := s.fetch(ctx, r, maxManifestSize); err != nil {
		return nil, err
	}
	m, err := s.manifestIn(ctx, r)
	if err != nil {
		return nil, err
	}
	return s.change(ctx, k, func(old *manifest) *manifest { return old.merge(m) }, false)
}

// learn adds a result to the manifest of a key.
func (s *entries) learn(ctx context.Context, k digest.Digest, r *result) error {
	_, err := s.change(ctx, k, func(m *manifest) *manifest { return m.add(r) }, true)
	return err
}

// change replaces a manifest. For each there is one who does so at a time, so that no result is lost.
func (s *entries) change(ctx context.Context, k digest.Digest, edit func(*manifest) *manifest, share bool) (*manifest, error) {
	slot := s.slots[k.Hash[0]%64]
	select {
	case slot <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-slot }()
	m := s.manifest(ctx, k)
	if m == nil || mutant.ManifestReplaced {
		m = &manifest{}
	}
	m = edit(m)
	b := m.encode()
	d := digest.SHA256.Of(b)
	r := &repb.ActionResult{OutputFiles: []*repb.OutputFile{{Path: manifestFile, Digest: upstream.ToProto(d)}}}
	if err := errors.Join(s.ring.PutAll(ctx, []digest.Digest{d}, [][]byte{b})...); err != nil {
		return nil, err
	}
	if err := s.cache.Put(ctx, action.Key{Action: k}, r); err != nil {
		return nil, err
	}
	s.keep(k, m)
	if share && s.remote != nil {
		s.remote.upload(k, r, []digest.Digest{d})
	}
	return m, nil
}

// maxOutputs bounds how many files a result of the server may have: more than there are kinds.
const maxOutputs = 16

var errShape = errors.New("the server's result is none of a compiler")

// fetch copies the blobs that a result of the server names into the ring, those that came with it from there. None may be larger than limit bytes.
func (s *entries) fetch(ctx context.Context, r *repb.ActionResult, limit int64) error {
	if r.ExitCode != 0 || len(r.OutputFiles) > maxOutputs {
		return errShape
	}
	ds, err := digestsOf(r)
	if err != nil {
		return err
	}
	for _, d := range ds {
		if d.Size > limit {
			return errShape
		}
	}
	came := inlined(r, ds)
	missing, err := s.ring.Missing(ctx, digest.SetOf(ds...))
	if err != nil || missing.Len() == 0 {
		return err
	}
	var got, rest []digest.Digest
	var data [][]byte
	for _, d := range missing.List() {
		if b, ok := came[d]; ok {
			got, data = append(got, d), append(data, b)
		} else {
			rest = append(rest, d)
		}
	}
	if len(rest) > 0 {
		more, errs := s.remote.blobs.GetAll(ctx, rest)
		if err := errors.Join(errs...); err != nil {
			if !errors.Is(err, blob.ErrNotFound) {
				s.remote.failed(lookupFailed)
			}
			return err
		}
		data = append(data, more...)
	}
	return errors.Join(s.ring.PutAll(ctx, append(got, rest...), data)...) // which compares them with their digests
}

// inlined takes the bytes that came with a result out of it. ds are the digests that it names.
func inlined(r *repb.ActionResult, ds []digest.Digest) map[digest.Digest][]byte {
	came := map[digest.Digest][]byte{}
	take := func(d digest.Digest, b *[]byte) {
		if len(*b) > 0 {
			came[d], *b = *b, nil
		}
	}
	for i, f := range r.OutputFiles {
		take(ds[i], &f.Contents)
	}
	take(ds[len(ds)-2], &r.StdoutRaw)
	take(ds[len(ds)-1], &r.StderrRaw)
	return came
}
