package pbs_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/sarsen-build/sarsen/backup/pbs/format"
	"github.com/sarsen-build/sarsen/internal/pbstest"
)

// catalogOf returns a catalog: in the archive root.pxar.didx, a directory etc with a file.
func catalogOf() []byte {
	b := []byte{0x91, 0xfd, 0x60, 0xf9, 0xc4, 0x67, 0x58, 0xd5}
	block := func(entry string, below int) (start int) {
		start = len(b)
		body := append([]byte{1}, entry...)
		if below > 0 {
			body = binary.AppendUvarint(body, uint64(start-below))
		}
		b = append(binary.AppendUvarint(b, uint64(len(body))), body...)
		return start
	}
	etc := block("f\x06passwd\x08\x05", 0) // 8 bytes, of second 5
	root := block("d\x03etc", etc)
	return binary.LittleEndian.AppendUint64(b, uint64(block("d\x0eroot.pxar.didx", root)))
}

// TestBrowse lists a snapshot's archives by their catalog, and takes files and directories out of them.
func TestBrowse(t *testing.T) {
	f := start(t, forgets())
	large := strings.Repeat("a line of many\n", 20_000)
	archive := pbstest.NewPxar(func(m *pbstest.Pxar) {
		m.Dir("etc", func() {
			m.File("passwd", "root:x:0")
			m.File("large", large)
			m.Link("link", "passwd")
			m.Twin("twin", "passwd")
		})
	})
	sealed := at(host, 10)
	for _, s := range []struct {
		pbstest.Snapshot
		key *pbstest.Key
	}{{host, nil}, {sealed, pbstest.NewKey([32]byte{1})}} {
		b := begin(t, f.Client, s.Snapshot, s.key)
		if err := errors.Join(b.Dynamic(t.Context(), "root.pxar.didx", archive), b.Dynamic(t.Context(), format.CatalogName, catalogOf()), b.Finish(t.Context())); err != nil {
			t.Fatal(err)
		}
		b.Close()
	}
	query := func(s pbstest.Snapshot, path string) url.Values {
		return with(s.Query(), "filepath", base64.StdEncoding.EncodeToString([]byte(path)))
	}
	type item struct {
		Filepath, Text, Type string
		Leaf                 bool
		Size, Mtime          int64
	}
	list := func(q url.Values) (all []item, err error) {
		return all, f.Admin(t.Context(), "GET", "catalog", q, &all)
	}
	got, err := list(with(host.Query(), "filepath", "root"))
	if want := []item{{Filepath: "L3Jvb3QucHhhci5kaWR4", Text: "root.pxar.didx", Type: "d"}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("the top is %+v, %v, want %+v", got, err, want)
	}
	got, err = list(query(host, "/root.pxar.didx/etc"))
	want := []item{{Filepath: base64.StdEncoding.EncodeToString([]byte("root.pxar.didx/etc/passwd")), Text: "passwd", Type: "f", Leaf: true, Size: 8, Mtime: 5}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("etc has %+v, %v, want %+v", got, err, want)
	}
	_, err = list(query(host, "/root.pxar.didx/none"))
	refused(t, "a directory that is not there", err, 404, "not found in catalog")
	_, err = list(with(host.Query(), "filepath", "root of all"))
	refused(t, "a path that is not in base64", err, 400, "filepath")
	_, err = list(with(sealed.Query(), "filepath", "root"))
	refused(t, "an encrypted catalog", err, 400, "is encrypted")

	file := func(q url.Values) (raw []byte, err error) {
		return raw, f.Admin(t.Context(), "GET", "pxar-file-download", q, &raw)
	}
	for path, want := range map[string]string{"etc/passwd": "root:x:0", "etc/large": large, "etc/twin": "root:x:0"} {
		if got, err := file(query(host, "/root.pxar.didx/"+path)); err != nil || string(got) != want {
			t.Errorf("%s has %d bytes, %v, want %d", path, len(got), err, len(want))
		}
	}
	_, err = file(query(host, "root.pxar.didx/etc/none"))
	refused(t, "a file that is not there", err, 404, "not in the archive")
	_, err = file(query(host, "none.pxar.didx/etc"))
	refused(t, "an archive that is not there", err, 404, "no archive")
	_, err = file(query(host, "root.pxar.didx/etc/link"))
	refused(t, "a link", err, 400, "neither")
	_, err = file(query(sealed, "root.pxar.didx/etc/passwd"))
	refused(t, "an encrypted archive", err, 400, "is encrypted")
	_, err = f.as("nobody@pbs!none").Restore(t.Context(), host, nil)
	refused(t, "a stranger", err, 403, "")

	inside := map[string]string{"etc/": "", "etc/passwd": "root:x:0", "etc/large": large, "etc/twin": "root:x:0", "etc/link": "passwd"}
	for _, path := range []string{"root.pxar.didx/etc", "root.pxar.didx/"} {
		raw, err := file(query(host, path))
		if got := unzip(t, raw); err != nil || !reflect.DeepEqual(got, inside) {
			t.Errorf("%s as zip: %d files, %v", path, len(got), err)
		}
		raw, err = file(with(query(host, path), "tar", "1"))
		if got := untar(t, raw); err != nil || !reflect.DeepEqual(got, inside) {
			t.Errorf("%s as tar: %d files, %v", path, len(got), err)
		}
	}
}

// unzip returns what a zip has, with where links lead.
func unzip(t *testing.T, raw []byte) map[string]string {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all[f.Name] = string(b)
	}
	return all
}

// untar returns what a tar.zst has, with where links lead.
func untar(t *testing.T, raw []byte) map[string]string {
	t.Helper()
	z, err := zstd.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	all := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all[h.Name] = string(b) + h.Linkname
	}
}
