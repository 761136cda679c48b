// Command pbsclient backs files up to a Proxmox backup server and restores them, for the tests of clients: what
// another client backed up is compared with what it read.
package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sarsen-build/sarsen/internal/pbstest"
)

const usage = `pbsclient [flags] backup NAME.didx=FILE|NAME.fidx=FILE...   back up files, upon the previous snapshot if there is one
pbsclient [flags] restore NAME FILE                         restore one archive; -time 0 takes the newest snapshot
pbsclient [flags] take ARCHIVE/PATH FILE                    take one file, or a directory as zip, out of an archive on the server
pbsclient [flags] list                                      print type/id/time of each snapshot`

func main() {
	var c pbstest.Client
	var s pbstest.Snapshot
	flag.StringVar(&c.Addr, "server", "127.0.0.1:8007", "HOST:PORT")
	flag.StringVar(&c.Fingerprint, "fingerprint", "", "of the certificate")
	flag.StringVar(&c.Store, "store", "main", "the datastore")
	token := flag.String("token", "", "USER@REALM!NAME:SECRET")
	flag.StringVar(&s.NS, "ns", "", "the namespace")
	flag.StringVar(&s.Type, "type", "host", "the backup's type")
	flag.StringVar(&s.ID, "id", "box", "the backup's ID")
	flag.Int64Var(&s.Time, "time", 0, "the backup's time")
	key := flag.String("key", "", "32 bytes in hexadecimal, to encrypt with")
	flag.Parse()
	c.Auth = "PBSAPIToken=" + *token
	if err := run(&c, s, *key, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "pbsclient:", err)
		os.Exit(1)
	}
}

func run(c *pbstest.Client, s pbstest.Snapshot, keyText string, args []string) error {
	ctx := context.Background()
	var key *pbstest.Key
	if keyText != "" {
		b, err := hex.DecodeString(keyText)
		if err != nil || len(b) != 32 {
			return errors.New("-key wants 64 hexadecimal digits")
		}
		key = pbstest.NewKey([32]byte(b))
	}
	switch {
	case len(args) >= 2 && args[0] == "backup":
		return backup(ctx, c, s, key, args[1:])
	case len(args) == 3 && args[0] == "restore":
		return restore(ctx, c, s, key, args[1], args[2])
	case len(args) == 3 && args[0] == "take":
		return take(ctx, c, s, args[1], args[2])
	case len(args) == 1 && args[0] == "list":
		all, err := list(ctx, c, s.NS)
		for _, s := range all {
			fmt.Printf("%s/%s/%d\n", s.Type, s.ID, s.Time)
		}
		return err
	}
	return errors.New(usage)
}

func list(ctx context.Context, c *pbstest.Client, ns string) ([]pbstest.Snapshot, error) {
	var items []struct {
		Type string `json:"backup-type"`
		ID   string `json:"backup-id"`
		Time int64  `json:"backup-time"`
	}
	if err := c.Admin(ctx, "GET", "snapshots", map[string][]string{"ns": {ns}}, &items); err != nil {
		return nil, err
	}
	all := make([]pbstest.Snapshot, len(items))
	for i, item := range items {
		all[i] = pbstest.Snapshot{NS: ns, Type: item.Type, ID: item.ID, Time: item.Time}
	}
	return all, nil
}

// newest returns the newest snapshot of s's group.
func newest(ctx context.Context, c *pbstest.Client, s pbstest.Snapshot) (pbstest.Snapshot, error) {
	all, err := list(ctx, c, s.NS)
	found := s
	for _, o := range all {
		if o.Type == s.Type && o.ID == s.ID && o.Time > found.Time {
			found = o
		}
	}
	if err == nil && found.Time == 0 {
		err = fmt.Errorf("there is no snapshot of %s/%s", s.Type, s.ID)
	}
	return found, err
}

func backup(ctx context.Context, c *pbstest.Client, s pbstest.Snapshot, key *pbstest.Key, files []string) error {
	if s.Time == 0 {
		s.Time = time.Now().Unix()
	}
	b, err := c.Backup(ctx, s, key, nil)
	if err != nil {
		return err
	}
	defer b.Close()
	for _, arg := range files {
		name, path, _ := strings.Cut(arg, "=")
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if _, err := b.Previous(ctx, name); err != nil && pbstest.Code(err) != 400 {
			return err
		}
		if filepath.Ext(name) == ".fidx" {
			err = b.Fixed(ctx, name, data, nil)
		} else {
			err = b.Dynamic(ctx, name, data)
		}
		if err != nil {
			return err
		}
	}
	if err := b.Finish(ctx); err != nil {
		return err
	}
	fmt.Printf("sent %d chunks, reused %d\n", b.Sent, b.Reused)
	return nil
}

func take(ctx context.Context, c *pbstest.Client, s pbstest.Snapshot, name, path string) error {
	s, err := newest(ctx, c, s)
	if err != nil {
		return err
	}
	q := s.Query()
	q.Set("filepath", base64.StdEncoding.EncodeToString([]byte(name)))
	var data []byte
	if err := c.Admin(ctx, "GET", "pxar-file-download", q, &data); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

func restore(ctx context.Context, c *pbstest.Client, s pbstest.Snapshot, key *pbstest.Key, name, path string) error {
	if s.Time == 0 {
		var err error
		if s, err = newest(ctx, c, s); err != nil {
			return err
		}
	}
	r, err := c.Restore(ctx, s, key)
	if err != nil {
		return err
	}
	defer r.Close()
	data, err := r.Archive(ctx, name)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}
