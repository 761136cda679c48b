package pbstest

import (
	"bytes"
	"encoding/binary"

	"github.com/sarsen-build/sarsen/backup/pbs/pxar"
)

// A Pxar writes an archive of files.
type Pxar struct {
	buf   bytes.Buffer
	dirs  []*open
	began map[string]int64
}

// NewPxar begins an archive whose top directory has what in adds.
func NewPxar(in func(*Pxar)) []byte {
	m := &Pxar{began: map[string]int64{}}
	m.stat(pxar.ModeDir | 0o755)
	m.dir(0, func() { in(m) })
	return m.buf.Bytes()
}

// open is a directory that is being written.
type open struct {
	start int64
	table [][3]uint64 // hash, place, size
}

func (m *Pxar) at() int64 { return int64(m.buf.Len()) }

// Item writes an item of these numbers and bytes.
func (m *Pxar) Item(kind uint64, contents ...any) {
	var c bytes.Buffer
	for _, v := range contents {
		_ = binary.Write(&c, binary.LittleEndian, v) // never fails
	}
	_ = binary.Write(&m.buf, binary.LittleEndian, []uint64{kind, uint64(16 + c.Len())})
	m.buf.Write(c.Bytes())
}

func (m *Pxar) stat(mode uint64) {
	m.Item(pxar.TypeEntry, mode, uint64(0), uint32(7), uint32(8), uint64(1700000000), uint32(5), uint32(0))
}

// Add writes an entry that rest ends; without a mode it has no stat.
func (m *Pxar) Add(name string, mode uint64, rest func()) {
	start := m.at()
	m.began[name] = start
	m.Item(pxar.TypeFilename, append([]byte(name), 0))
	if mode != 0 {
		m.stat(mode)
	}
	rest()
	if len(m.dirs) > 0 {
		dir := m.dirs[len(m.dirs)-1]
		dir.table = append(dir.table, [3]uint64{pxar.HashName(name), uint64(start), uint64(m.at() - start)})
	}
}

// dir writes what a directory has.
func (m *Pxar) dir(start int64, in func()) {
	m.dirs = append(m.dirs, &open{start: start})
	in()
	d := m.dirs[len(m.dirs)-1]
	m.dirs = m.dirs[:len(m.dirs)-1]
	at := uint64(m.at())
	var table []uint64
	for _, e := range d.table {
		table = append(table, e[0], at-e[1], e[2])
	}
	table = append(table, pxar.TailMarker, at-uint64(d.start), uint64(16+8*(len(table)+3)))
	m.Item(pxar.TypeGoodbye, table)
}

// Dir writes a directory.
func (m *Pxar) Dir(name string, in func()) {
	m.Add(name, pxar.ModeDir|0o755, func() { m.dir(m.began[name], in) })
}

// File writes a file.
func (m *Pxar) File(name, contents string) {
	m.Add(name, pxar.ModeFile|0o644, func() { m.Item(pxar.TypePayload, []byte(contents)) })
}

// Link writes a symbolic link.
func (m *Pxar) Link(name, to string) {
	m.Add(name, pxar.ModeSymlink|0o777, func() { m.Item(pxar.TypeSymlink, append([]byte(to), 0)) })
}

// Twin writes another name of the file that is called that.
func (m *Pxar) Twin(name, of string) {
	m.Add(name, 0, func() { m.Item(pxar.TypeHardlink, uint64(m.began[name]-m.began[of]), append([]byte(of), 0)) })
}
