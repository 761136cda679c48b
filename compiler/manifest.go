package compiler

import (
	"encoding/binary"
	"errors"

	"github.com/sarsen-build/sarsen/digest"
)

// The bounds of a manifest. Beyond them the oldest results go.
const (
	maxResults   = 100
	maxFileInfos = 20_000
)

// A manifest says, for one source compiled in one way, which headers led to which entries. Results are
// never changed; the newest is the first.
type manifest struct {
	results []*result
}

// A result is one set of headers and the entry that they led to.
type result struct {
	Files  []included // in the order in which the compiler names them, the source left out
	Absent []gap      // what would have been found before one of Files
	Date   string     // "" unless __DATE__ occurs: the day
	Entry  digest.Digest
}

// An included is a file that was read, by the name that the compiler has for it.
type included struct {
	Name   string
	Digest digest.Digest
}

// A gap is names that a directory does not have, or a directory that is not there.
type gap struct {
	Dir   string
	Names []string
}

// add puts r first, instead of one that leads to the same entry, and drops what is beyond the bounds.
func (m *manifest) add(r *result) *manifest {
	n := &manifest{results: []*result{r}}
	infos := len(r.Files)
	for _, old := range m.results {
		if old.Entry == r.Entry {
			continue
		}
		if infos += len(old.Files); len(n.results) == maxResults || infos > maxFileInfos {
			break
		}
		n.results = append(n.results, old)
	}
	return n
}

// merge adds the results of another manifest behind its own.
func (m *manifest) merge(o *manifest) *manifest {
	merged := &manifest{}
	for i := len(o.results) - 1; i >= 0; i-- {
		merged = merged.add(o.results[i])
	}
	for i := len(m.results) - 1; i >= 0; i-- {
		merged = merged.add(m.results[i])
	}
	return merged
}

// manifestMagic is what a manifest's blob begins with; the last byte is its version.
const manifestMagic = "SarsenM\x01"

var errManifest = errors.New("malformed manifest")

// encode returns the manifest's blob: magic, a table of strings, the results. Strings are numbered in
// the table, since results share most of theirs.
func (m *manifest) encode() []byte {
	var table []string
	index := map[string]uint64{}
	var body []byte
	text := func(s string) {
		i, ok := index[s]
		if !ok {
			i = uint64(len(table))
			index[s], table = i, append(table, s)
		}
		body = binary.AppendUvarint(body, i)
	}
	sum := func(d digest.Digest) {
		text(string(d.Hash[:]))
		body = binary.AppendUvarint(body, uint64(d.Size))
	}
	for _, r := range m.results {
		sum(r.Entry)
		text(r.Date)
		body = binary.AppendUvarint(body, uint64(len(r.Files)))
		for _, f := range r.Files {
			text(f.Name)
			sum(f.Digest)
		}
		body = binary.AppendUvarint(body, uint64(len(r.Absent)))
		for _, g := range r.Absent {
			text(g.Dir)
			body = binary.AppendUvarint(body, uint64(len(g.Names)))
			for _, name := range g.Names {
				text(name)
			}
		}
	}
	b := append([]byte(manifestMagic), binary.AppendUvarint(nil, uint64(len(table)))...)
	for _, s := range table {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	b = binary.AppendUvarint(b, uint64(len(m.results)))
	return append(b, body...)
}

// manifestReader takes fields from a manifest's blob; after the first mistake all are empty.
type manifestReader struct {
	b     []byte
	table []string
	bad   bool
}

// number returns the next number, which is at most limit.
func (r *manifestReader) number(limit uint64) uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 || n > limit {
		r.b, r.bad = nil, true
		return 0
	}
	r.b = r.b[size:]
	return n
}

// count returns the number of things that follow, each of a byte at least.
func (r *manifestReader) count() int {
	n := r.number(uint64(len(r.b)))
	if n > uint64(len(r.b)) { // which is shorter by the number itself
		r.b, r.bad = nil, true
		return 0
	}
	return int(n)
}

func (r *manifestReader) text() string {
	i := r.number(uint64(len(r.table)))
	if i >= uint64(len(r.table)) {
		r.b, r.bad = nil, true
		return ""
	}
	return r.table[i]
}

func (r *manifestReader) sum() digest.Digest {
	d := digest.Digest{Function: digest.SHA256}
	hash := r.text()
	if len(hash) != len(d.Hash) {
		r.b, r.bad = nil, true
		return d
	}
	copy(d.Hash[:], hash)
	d.Size = int64(r.number(1 << 62))
	return d
}

func decodeManifest(b []byte) (*manifest, error) {
	if len(b) < len(manifestMagic) || string(b[:len(manifestMagic)]) != manifestMagic {
		return nil, errManifest
	}
	r := &manifestReader{b: b[len(manifestMagic):]}
	for range r.count() {
		n := r.count()
		r.table = append(r.table, string(r.b[:n]))
		r.b = r.b[n:]
	}
	m := &manifest{}
	for range r.count() {
		res := &result{Entry: r.sum(), Date: r.text()}
		for range r.count() {
			res.Files = append(res.Files, included{r.text(), r.sum()})
		}
		for range r.count() {
			g := gap{Dir: r.text()}
			for range r.count() {
				g.Names = append(g.Names, r.text())
			}
			res.Absent = append(res.Absent, g)
		}
		if r.bad {
			return nil, errManifest
		}
		m.results = append(m.results, res)
	}
	if r.bad || len(r.b) > 0 {
		return nil, errManifest
	}
	return m, nil
}
