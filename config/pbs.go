package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// A PBSAccount is a user of the Proxmox Backup Server protocol, or a user's token.
type PBSAccount struct {
	Secret string
	// May says what is granted, by DATASTORE or DATASTORE/NAMESPACE.
	May map[string]PBSRights
}

// PBSRights are what may be done in a datastore or namespace, and in the namespaces below it.
type PBSRights struct{ Read, Backup, Prune bool }

// The names of accounts, and of datastores and namespaces.
var (
	accountName = regexp.MustCompile(`^[^\s:/@!]+@[A-Za-z0-9_][A-Za-z0-9._-]*(![A-Za-z0-9_][A-Za-z0-9._-]*)?$`)
	storeName   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$`)
)

// pbsAccount reads what is said of one account.
func (d *decoder) pbsAccount(name string, n *yaml.Node) (a PBSAccount) {
	at := "pbs." + name
	if !accountName.MatchString(name) {
		d.fail(n, at, "an account is called USER@REALM, or USER@REALM!TOKEN for a token")
	}
	a.May = map[string]PBSRights{}
	d.each(at, n, []string{"secret", "may"}, func(field string, value *yaml.Node) {
		if field == "secret" {
			if value.Kind != yaml.ScalarNode || isNull(value) {
				d.fail(value, at+".secret", "want a value, got %s", describe(value))
			} else if err := setToken(&a.Secret, value.Value); err != nil {
				d.fail(value, at+".secret", "a secret has 8 characters at least")
			}
			return
		}
		d.each(at+".may", value, nil, func(store string, rights *yaml.Node) {
			if !storeName.MatchString(store) {
				d.fail(rights, at+".may", "%q is neither DATASTORE nor DATASTORE/NAMESPACE", clip(store))
			}
			a.May[store] = d.pbsRights(at+".may."+store, rights)
		})
	})
	if a.Secret == "" || len(a.May) == 0 {
		d.fail(n, at, "an account has a secret and a list of what it may; both are needed")
	}
	return a
}

func (d *decoder) pbsRights(at string, n *yaml.Node) (r PBSRights) {
	if n.Kind != yaml.ScalarNode || isNull(n) {
		d.fail(n, at, "want some of read, backup and prune, got %s", describe(n))
		return r
	}
	known := map[string]*bool{"read": &r.Read, "backup": &r.Backup, "prune": &r.Prune}
	for word := range strings.SplitSeq(n.Value, ",") {
		right, ok := known[strings.TrimSpace(word)]
		if !ok {
			d.fail(n, at, "%q is none of %s", clip(strings.TrimSpace(word)), strings.Join(slices.Sorted(maps.Keys(known)), ", "))
			continue
		}
		*right = true
	}
	return r
}

// setPBS takes the address of the Proxmox Backup Server protocol, or "none".
func setPBS(c *Config, text string) error {
	if text == pbsOff {
		c.PBS = ""
		return nil
	}
	if err := setAddress(&c.PBS, text, "8007"); err != nil {
		return fmt.Errorf("%w, or none", err)
	}
	return nil
}

// pbsOff is the address of what does not listen.
const pbsOff = "none"

func pbsAddress(c *Config) string {
	if c.PBS == "" {
		return pbsOff
	}
	return c.PBS
}
