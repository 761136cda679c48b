package gocache

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/internal/storetest"
)

// TestMain is also the program that TestKill kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("GOCACHE_TEST_DIR"); dir != "" {
		scribble(dir)
	}
	os.Exit(m.Run())
}

// scribble puts and gets until it is killed.
func scribble(dir string) {
	c := Open(Options{Dir: dir, MaxSize: 1 << 30})
	for i := uint64(os.Getpid()); ; i++ {
		body := storetest.Bytes(i%50, 1+int(i%50)*5000)
		if name, err := c.put(id(actionOf(int(i%50))), sha256.Sum256(body), strings.NewReader(string(body)), int64(len(body))); err != nil {
			panic(fmt.Sprint(name, err))
		}
		if i%10 == 0 {
			_ = c.near.trim(1<<18, time.Now())
		}
	}
}

// TestKill kills processes that share a directory: each hit afterwards has the bytes that were put.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	for range 10 {
		var some []*exec.Cmd
		for range 3 {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "GOCACHE_TEST_DIR="+dir)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			some = append(some, cmd)
		}
		time.Sleep(50*time.Millisecond + rand.N(100*time.Millisecond))
		for _, cmd := range some {
			cmd.Process.Kill()
			cmd.Wait()
		}
	}
	// No seal is believed: every file is looked at.
	walk(filepath.Join(dir, outputDir), func(name string) {
		hash, size, _ := strings.Cut(filepath.Base(name), "-")
		data, err := os.ReadFile(name)
		if got := fmt.Sprintf("%x", sha256.Sum256(data)); err != nil || got != hash || strconv.Itoa(len(data)) != size {
			t.Errorf("%s: %d bytes with hash %s, %v", name, len(data), got, err)
		}
	})
	g := run(t, Options{Dir: dir, MaxSize: 1 << 30})
	hits := 0
	for n := range 50 {
		body := storetest.Bytes(uint64(n), 1+n*5000)
		if a := g.ask(request{Command: "get", ActionID: actionOf(n)}, nil); !a.Miss {
			g.wantFile(n, a.DiskPath, body)
			hits++
		}
	}
	if hits == 0 {
		t.Error("nothing was kept")
	}
	g.close()
	for _, sub := range []string{partDir, runDir} {
		if left, _ := os.ReadDir(filepath.Join(dir, sub)); len(left) > 0 {
			t.Errorf("%s: what the killed left stays: %v", sub, left)
		}
	}
}

// TestDamage damages the files of an entry: it is then a miss, and can be put again.
func TestDamage(t *testing.T) {
	body := storetest.Bytes(1, 10_000)
	flip := func(name string) error {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		data[len(data)/2] ^= 1
		return os.WriteFile(name, data, 0o644)
	}
	for what, damage := range map[string]func(index, output string) error{
		"a bit of the output":    func(_, output string) error { return flip(output) },
		"the output is cut":      func(_, output string) error { return os.Truncate(output, 9_999) },
		"the output is gone":     func(_, output string) error { return os.Remove(output) },
		"the output is a folder": func(_, output string) error { return errors.Join(os.Remove(output), os.Mkdir(output, 0o700)) },
		"a link instead of it":   func(index, output string) error { return errors.Join(os.Remove(output), os.Symlink(index, output)) },
		"a bit of the index":     func(index, _ string) error { return flip(index) },
		"the index is cut":       func(index, _ string) error { return os.Truncate(index, 100) },
		"the index is empty":     func(index, _ string) error { return os.Truncate(index, 0) },
		"the index is long":      func(index, _ string) error { return os.Truncate(index, 1<<30) },
		"zeros instead of the rest": func(_, output string) error {
			return errors.Join(os.Truncate(output, 4096), os.Truncate(output, 10_000))
		},
	} {
		t.Run(what, func(t *testing.T) {
			o := Options{Dir: t.TempDir(), MaxSize: 1 << 30}
			one := run(t, o)
			output := one.put(1, body)
			if err := os.Chmod(output, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := damage(one.cache.near.indexName(id(actionOf(1))), output); err != nil {
				t.Fatal(err)
			}
			one.miss(1)
			if what != "the output is a folder" {
				if got := one.put(1, body); got != output {
					t.Errorf("put again: got %s, want %s", got, output)
				}
				one.hit(1, body)
			}
			one.close()
		})
	}
}

// TestMachineStarts has files of an earlier run of the machine: they are hashed before they are believed.
func TestMachineStarts(t *testing.T) {
	body := storetest.Bytes(1, 10_000)
	o := Options{Dir: t.TempDir(), MaxSize: 1 << 30}
	one := run(t, o)
	output := one.put(1, body)
	one.close()
	other := time.Unix(time.Now().Unix(), 12345)
	if err := os.Chtimes(output, other, other); err != nil {
		t.Fatal(err)
	}
	two := run(t, o)
	two.hit(1, body)
	two.close()
	info, err := os.Stat(output)
	if err != nil || info.ModTime().Equal(other) {
		t.Errorf("the file was hashed and has no new seal: %v, %v", info.ModTime(), err)
	}
}

// age makes outputs look as if they were used so long ago.
func age(t *testing.T, name string, by time.Duration) {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(name, time.Now().Add(-by), info.ModTime()); err != nil {
		t.Fatal(err)
	}
}

func TestTrim(t *testing.T) {
	o := Options{Dir: t.TempDir(), MaxSize: 1 << 30}
	one := run(t, o)
	names := map[int]string{}
	body := func(n int) []byte { return storetest.Bytes(uint64(n), 100_000) }
	for n := range 20 {
		names[n] = one.put(n, body(n))
	}
	one.close()
	// 0 is the oldest; 19 was not used for too long, whatever fits.
	for n := range 19 {
		age(t, names[n], time.Duration(24-n)*time.Hour)
	}
	age(t, names[19], unused+time.Hour)
	age(t, names[5], time.Minute) // just now
	two := run(t, o)
	two.hit(3, body(3)) // it lives on: this stays
	three := run(t, Options{Dir: o.Dir, MaxSize: 1_000_000})
	three.close()
	for n, name := range names {
		_, err := os.Stat(name)
		_, indexed := os.Stat(two.cache.near.indexName(id(actionOf(n))))
		if (err == nil) != (indexed == nil) {
			t.Errorf("output %d: %v, and its entry: %v", n, err, indexed)
		}
		switch want := n == 3 || n == 5 || n >= 13 && n < 19; {
		case n > 10 && n < 15: // where exactly it ends
		case want != (err == nil):
			t.Errorf("output %d: stays: got %t, want %t", n, err == nil, want)
		}
	}
	two.hit(3, body(3))
	two.miss(0)
	two.close()
	size, _ := one.cache.near.readSize()
	if _, got := one.cache.near.outputs(); got > 1_000_000 || size != got {
		t.Errorf("after the trim: %d bytes, and %d noted, want the same and at most 1000000", got, size)
	}
}

// TestDiskIsFull has an error that says so: at the end some room is made, though MaxSize has room.
func TestDiskIsFull(t *testing.T) {
	o := Options{Dir: t.TempDir(), MaxSize: 1 << 30}
	one := run(t, o)
	names := map[int]string{}
	for n := range 32 {
		names[n] = one.put(n, storetest.Bytes(uint64(n), 100_000))
		age(t, names[n], time.Duration(40-n)*time.Hour)
	}
	one.close()
	two := run(t, o)
	if !two.cache.near.failed(&os.PathError{Op: "write", Err: syscall.ENOSPC}) {
		t.Error("got no error of the file system")
	}
	two.close()
	for n, want := range map[int]bool{0: false, 20: true, 31: true} {
		if _, err := os.Stat(names[n]); want != (err == nil) {
			t.Errorf("output %d: got %v, want it to stay: %t", n, err, want)
		}
	}
}

func TestEntryText(t *testing.T) {
	e := entry{action: id{1}, output: id{2}, content: id{3}, size: 4, time: time.Unix(5, 6)}
	got, err := parseEntry(e.text())
	if err != nil || got != e {
		t.Errorf("got %+v, %v, want %+v", got, err, e)
	}
	text := e.text()
	for i := range text {
		damaged := text[:i] + string(text[i]^1) + text[i+1:]
		if got, err := parseEntry(damaged); err == nil {
			t.Errorf("byte %d changed: got %+v, want an error", i, got)
		}
		if got, err := parseEntry(text[:i]); err == nil {
			t.Errorf("cut after %d bytes: got %+v, want an error", i, got)
		}
	}
}

func FuzzEntry(f *testing.F) {
	f.Add(entry{size: 1, time: time.Unix(0, 0)}.text())
	f.Add("sarsen go 1")
	f.Fuzz(func(t *testing.T, text string) {
		if e, err := parseEntry(text); err == nil && e.text() != text {
			t.Errorf("%q is read as %q", text, e.text())
		}
	})
}

// TestStartBesideLookup starts beside a process that was stopped in a lookup, or hashes a large file: it keeps out only
// trimmers.
func TestStartBesideLookup(t *testing.T) {
	o := Options{Dir: t.TempDir(), MaxSize: 1 << 30}
	one := run(t, o)
	one.put(1, []byte("x"))
	unlock, ok := one.cache.near.lock(false)
	if !ok {
		t.Fatal("the lock can't be had")
	}
	two := run(t, o)
	if two.cache.near == nil {
		t.Error("the directory can't be used")
	}
	two.hit(1, []byte("x"))
	unlock()
	two.close()
	one.close()
}
