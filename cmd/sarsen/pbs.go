package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sarsen-build/sarsen/backup/pbs"
	"github.com/sarsen-build/sarsen/config"
)

// pbsAccounts returns who may use the Proxmox Backup Server protocol, and the datastores that they may use.
func pbsAccounts(c *config.Config) (access pbs.Access, datastores []string, err error) {
	none := errors.New("the Proxmox backup server has an address (--pbs) and no accounts; name a file with a section 'pbs' by --backups, as 'sarsen serve --help' shows")
	if c.Backups == "" {
		return access, nil, none
	}
	b, err := config.LoadBackups(c.Backups)
	if err != nil {
		return access, nil, err
	}
	if len(b.PBS) == 0 {
		return access, nil, none
	}
	for _, name := range slices.Sorted(maps.Keys(b.PBS)) {
		account := pbs.Account{Name: name, Secret: pbs.SecretOf(b.PBS[name].Secret)}
		for at, may := range b.PBS[name].May {
			g := pbs.Grant{}
			g.Datastore, g.Namespace, _ = strings.Cut(at, "/")
			for right, granted := range map[pbs.Rights]bool{pbs.Read: may.Read, pbs.Backup: may.Backup, pbs.Prune: may.Prune} {
				if granted {
					g.Rights |= right
				}
			}
			account.Grants = append(account.Grants, g)
			if !slices.Contains(datastores, g.Datastore) {
				datastores = append(datastores, g.Datastore)
			}
		}
		access.Accounts = append(access.Accounts, account)
	}
	return access, datastores, nil
}

// startPBS serves the Proxmox Backup Server protocol on the open store, if that is wanted.
func (s *services) startPBS(ctx context.Context) error {
	if s.config.PBS == "" {
		return nil
	}
	access, datastores, err := pbsAccounts(s.config)
	if err != nil {
		return err
	}
	dir := filepath.Join(s.config.Dir, "pbs")
	id, err := pbs.LoadIdentity(dir)
	if err != nil {
		return fmt.Errorf("the certificate of the Proxmox backup server can't be read or made: %w", err)
	}
	o := pbs.Options{Access: access, Identity: id, Log: s.log}
	var patience time.Duration
	if s.behind != nil {
		patience = bucketPatience
	}
	for _, name := range datastores {
		o.Datastores = append(o.Datastores, pbs.Datastore{Name: name, Store: s.store, Keeper: s.store, Space: s.backupSpace, Patience: patience})
	}
	if s.pbs, err = pbs.New(ctx, o); err != nil {
		return fmt.Errorf("what backups held before the last stop can't be let go: %w", err)
	}
	s.serve("Proxmox backup", s.pbsListener, s.pbs.Serve)
	return nil
}

// bucketPatience is how long a backup's bytes are waited for that another server wrote amid a collection.
const bucketPatience = 30 * time.Second

// boundless is how many bytes a bucket without a limit is said to have: a PiB.
const boundless = 1 << 50

// backupSpace returns how many bytes backups may take, which is half of the store, and how many they do. In a bucket
// nothing bounds them, and what all blobs take is known.
func (s *services) backupSpace() (total, used int64) {
	if s.behind != nil {
		used = s.behind.far.Size()
		return max(cmp.Or(s.behind.config.MaxSize, boundless), used), used
	}
	stats := s.ring.Stats()
	return stats.LimitBytes / 2, stats.KeptBytes
}

// pbsStatus is what /status shows of the Proxmox backup server, or nil.
func (s *services) pbsStatus() any {
	if s.pbs == nil {
		return nil
	}
	return struct {
		Address     string `json:"address"`
		Fingerprint string `json:"fingerprint"`
		pbs.Stats
	}{s.pbsAddr(), s.pbs.Fingerprint(), s.pbs.Stats()}
}

func (s *services) pbsAddr() string { return advertised(s.config.PBS, s.pbsListener.Addr()) }

// pbsNotice is what the ready notice says of the Proxmox backup server.
func (s *services) pbsNotice() string {
	if s.pbs == nil {
		return ""
	}
	return fmt.Sprintf(`Proxmox backups:  %s
Fingerprint:      %s
`, s.pbsAddr(), s.pbs.Fingerprint())
}

// stopPBS lets backups finish until ctx ends; then it cuts them, and they leave nothing.
func (s *services) stopPBS(ctx context.Context) error {
	if s.pbs == nil {
		closeListener(s.pbsListener)
		return nil
	}
	if err := s.pbs.Shutdown(ctx); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
