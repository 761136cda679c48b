package stage

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"math"

	"github.com/zeebo/xxh3"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

const (
	logName = "directories"
	newName = "directories.new"
	// header tells the format; it changes whenever older files would be misread.
	header = "sarsen directories 1\n"
	// prefixSize is of length (4 bytes), checksum (8) and digest function (1), before each message.
	prefixSize = 13
	// writeSize is how much is written at once, in bytes.
	writeSize = 1 << 20
)

// record appends a message as the file has it.
func record(b []byte, f digest.Function, data []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	b = binary.LittleEndian.AppendUint64(b, sum(f, data))
	return append(append(b, byte(f)), data...)
}

// sum is seeded with the function and the length, so that zeros are no record.
func sum(f digest.Function, data []byte) uint64 {
	return xxh3.HashSeed(data, uint64(f)<<32|uint64(uint32(len(data))))
}

// load reads the file at path into the cache, oldest record first, and makes one if there is none.
func (k *keeper) load(fsys vfs.FS, path string) error {
	f, err := fsys.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return k.renew()
	}
	if err != nil {
		return err
	}
	r := bufio.NewReaderSize(io.NewSectionReader(f, 0, math.MaxInt64), writeSize)
	head := make([]byte, len(header))
	if _, err := io.ReadFull(r, head); err != nil || string(head) != header {
		k.log.Info("the directory cache begins empty: its file has another format")
		return errors.Join(f.Close(), k.renew())
	}
	k.file, k.end = f, int64(len(header))
	for {
		function, data, ok := readRecord(r)
		if !ok {
			break
		}
		d := function.Of(data)
		if n, err := decode(d, data); err == nil {
			k.cache.restore(n)
			k.at[d] = k.end + prefixSize
		}
		k.end += prefixSize + int64(len(data))
	}
	if err := f.Truncate(k.end); err != nil {
		return errors.Join(err, f.Close())
	}
	if k.end > k.limit {
		return k.renew()
	}
	return nil
}

// readRecord reads a record that is whole.
func readRecord(r io.Reader) (digest.Function, []byte, bool) {
	var prefix [prefixSize]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return 0, nil, false
	}
	size := binary.LittleEndian.Uint32(prefix[:])
	function := digest.Function(prefix[12])
	if size > maxDirectory || !function.Valid() {
		return 0, nil, false
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(r, data); err != nil || sum(function, data) != binary.LittleEndian.Uint64(prefix[4:]) && !mutant.LogUnsummed {
		return 0, nil, false
	}
	return function, data, true
}

// write appends messages. One that fails half way is written over by the next.
func (k *keeper) write(messages []message) error {
	var buf []byte
	begin := k.end
	for i, m := range messages {
		if _, ok := k.at[m.digest]; !ok {
			k.at[m.digest] = begin + int64(len(buf)) + prefixSize
			buf = record(buf, m.digest.Function, m.data)
		}
		if len(buf) < writeSize && i < len(messages)-1 {
			continue
		}
		if _, err := k.file.WriteAt(buf, begin); err != nil {
			for _, m := range messages {
				if k.at[m.digest] >= k.end {
					delete(k.at, m.digest)
				}
			}
			return err
		}
		begin += int64(len(buf))
		k.end, buf = begin, buf[:0]
	}
	return nil
}

// renew writes a new file with what the cache has, and puts it in the place of the old one.
func (k *keeper) renew() error {
	f, err := k.dir.Create(newName, 0)
	if err != nil {
		return err
	}
	end, at, err := k.copyTo(f)
	if err == nil {
		err = k.dir.Rename(newName, logName)
	}
	if err != nil {
		return errors.Join(err, f.Close(), k.dir.Remove(newName))
	}
	old := k.file
	k.file, k.end, k.at = f, end, at
	if old != nil {
		return old.Close()
	}
	return nil
}

func (k *keeper) copyTo(f vfs.File) (end int64, at map[digest.Digest]int64, err error) {
	at = map[digest.Digest]int64{}
	buf := []byte(header)
	for _, d := range k.cache.oldestFirst() {
		from, ok := k.at[d]
		if !ok {
			continue
		}
		data := make([]byte, d.Size)
		if _, err := k.file.ReadAt(data, from); err != nil {
			return 0, nil, err
		}
		at[d] = end + int64(len(buf)) + prefixSize
		if buf = record(buf, d.Function, data); len(buf) >= writeSize {
			if _, err := f.WriteAt(buf, end); err != nil {
				return 0, nil, err
			}
			end, buf = end+int64(len(buf)), buf[:0]
		}
	}
	_, err = f.WriteAt(buf, end)
	return end + int64(len(buf)), at, err
}
