package gocache

import (
	"crypto/sha256"
	"errors"
	"io"
	"os"
)

// A part is a file that is being written.
type part struct {
	dir  *directory
	file *os.File // nil when it was published or discarded
}

// begin makes a part where there is room for one.
func (c *Cache) begin() (*part, error) {
	for _, d := range c.places() {
		if p, err := d.begin(); err == nil {
			return p, nil
		}
	}
	d, err := c.substitute()
	if err != nil {
		return nil, err
	}
	return d.begin()
}

// move copies the first n bytes of p to a part in the temporary directory, and discards p. If it fails, it returns p.
func (c *Cache) move(p *part, n int64) (*part, error) {
	d, err := c.substitute()
	if err != nil {
		return p, err
	}
	if p.file == nil || p.dir == d {
		return p, errors.New("there is no other directory")
	}
	q, err := d.begin()
	if err != nil {
		return p, err
	}
	if _, err := io.Copy(io.NewOffsetWriter(q.file, 0), io.NewSectionReader(p.file, 0, n)); err != nil {
		q.discard()
		return p, err
	}
	p.discard()
	return q, nil
}

// write makes a part of body, which must have size bytes, and returns their SHA-256. When a disk is full the
// temporary directory takes over. body is read to its end in any case.
func (c *Cache) write(body io.Reader, size int64) (*part, id, error) {
	p, err := c.begin()
	hash, buffer := sha256.New(), make([]byte, min(size+1, 256<<10))
	var n int64
	for {
		m, end := body.Read(buffer)
		if m > 0 && err == nil && n+int64(m) > size {
			err = errors.New("the body is longer than its BodySize")
		}
		if m > 0 && err == nil {
			hash.Write(buffer[:m])
			p, err = c.append(p, buffer[:m], n)
			n += int64(m)
		}
		if end == io.EOF {
			break
		}
		if end != nil {
			return p, id{}, errors.Join(end, err)
		}
	}
	if err == nil && n != size {
		err = errors.New("the body is shorter than its BodySize")
	}
	return p, id(hash.Sum(nil)), err
}

// append writes data at n, in p or in what replaces it.
func (c *Cache) append(p *part, data []byte, n int64) (*part, error) {
	_, err := p.file.WriteAt(data, n)
	if err == nil {
		return p, nil
	}
	p.dir.failed(err)
	q, moved := c.move(p, n)
	if moved != nil {
		return p, errors.Join(err, moved)
	}
	_, err = q.file.WriteAt(data, n)
	return q, err
}

// discard removes p, unless it was published.
func (p *part) discard() {
	if p != nil && p.file != nil {
		p.file.Close()
		os.Remove(p.file.Name())
		p.file = nil
	}
}
