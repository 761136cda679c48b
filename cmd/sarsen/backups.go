package main

import (
	"github.com/sarsen-build/sarsen/backup"
	"github.com/sarsen-build/sarsen/config"
)

// backupAccess returns who may do what with backups, as the file at path says, or everybody everything if
// path is "".
func backupAccess(path string) (*backup.Access, error) {
	if path == "" {
		return backup.Open(), nil
	}
	c, err := config.LoadBackups(path)
	if err != nil {
		return nil, err
	}
	return backup.Restrict(rules(c.Restic), rules(c.Casync)), nil
}

func rules(repositories map[string]config.Repository) map[string]backup.Rule {
	r := map[string]backup.Rule{}
	for name, it := range repositories {
		r[name] = backup.Rule{Token: it.Token, AppendOnly: it.AppendOnly, MaintenanceToken: it.MaintenanceToken, Quota: it.Quota}
	}
	return r
}
