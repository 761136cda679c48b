package config

import (
	"reflect"
	"strings"
	"testing"
)

func TestLoadBackups(t *testing.T) {
	b, err := LoadBackups(write(t, `# who may what
restic:
  laptop: {token: secret-1, append-only: true, maintenance-token: secret-2, quota: 100GB}
  open:
casync:
  images:
    token: secret-3
pbs:
  ann@pbs!laptop:
    secret: secret-4
    may: {main: backup, main/team/a: "read, prune"}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := &Backups{
		Restic: map[string]Repository{"laptop": {"secret-1", true, "secret-2", 100e9}, "open": {}},
		Casync: map[string]Repository{"images": {Token: "secret-3"}},
		PBS: map[string]PBSAccount{"ann@pbs!laptop": {"secret-4", map[string]PBSRights{
			"main": {Backup: true}, "main/team/a": {Read: true, Prune: true},
		}}},
	}
	if !reflect.DeepEqual(b, want) {
		t.Errorf("got %+v, want %+v", b, want)
	}
	if b, err := LoadBackups(write(t, "# nothing\n")); err != nil || len(b.Restic) != 0 {
		t.Errorf("of comments: got %+v, %v", b, err)
	}
}

func TestLoadBackupsErrors(t *testing.T) {
	for text, want := range map[string]string{
		"borg: {}":                                   "F:1: borg: unknown field; known are restic, casync, pbs",
		"restic: {a: {tokn: secret-1}}":              "F:1: restic.a.tokn: unknown field; known are append-only, maintenance-token, quota, token",
		"restic:\n  a: {token: short}":               "F:2: restic.a.token: a token has 8 characters at least; leave it out to let everybody in",
		"restic: {a: {append-only: on}}":             `F:1: restic.a.append-only: "on" is neither true nor false`,
		"restic: {a: {quota: lots}}":                 `F:1: restic.a.quota: "lots" is not a size; write a number and a unit, like 50GB or 16MiB`,
		"restic: {a: {quota: 0}}":                    "F:1: restic.a.quota: 0 would be none; leave it out for no limit, or write one like 100GB",
		"restic: {a: {maintenance-token: secret-2}}": "F:1: restic.a.maintenance-token: it is who may delete where append-only is true; set that, or leave this out",
		"restic: {a: {token: secret-1, maintenance-token: secret-1, append-only: true}}": "F:1: restic.a.maintenance-token: it is the same as token, whose owner may not delete; choose another one",
		"restic: {a: {quota: }}": "F:1: restic.a.quota: want a value, got nothing",
		"casync: {a/b: {}}":      `F:1: casync: "a/b" is no name of a repository; it has letters, digits, dots, dashes and underscores, and does not begin with a dot`,
		"restic: {.a: }":         `F:1: restic: ".a" is no name of a repository; it has letters, digits, dots, dashes and underscores, and does not begin with a dot`,
		"restic: [a]":            "F:1: restic: want NAME: VALUE lines, got a list",
		"restic:\n  a:\n  a:":    "F:3: restic.a: set twice; keep one",
		"restic: {[a]: b}":       "F:1: restic: want a name, got a list",
		"pbs: {ann: {secret: 12345678, may: {m: read}}}":          "F:1: pbs.ann: an account is called USER@REALM, or USER@REALM!TOKEN for a token",
		"pbs: {a@pbs: {secret: 123, may: {m: read}}}":             "F:1: pbs.a@pbs.secret: a secret has 8 characters at least\nF:1: pbs.a@pbs: an account has a secret and a list of what it may; both are needed",
		"pbs: {a@pbs: {secret: 12345678}}":                        "F:1: pbs.a@pbs: an account has a secret and a list of what it may; both are needed",
		"pbs: {a@pbs: {secret: 12345678, may: {m: write}}}":       `F:1: pbs.a@pbs.may.m: "write" is none of backup, prune, read`,
		"pbs: {a@pbs: {secret: 12345678, may: {m/: read}}}":       `F:1: pbs.a@pbs.may: "m/" is neither DATASTORE nor DATASTORE/NAMESPACE`,
		"pbs: {a@pbs: {secret: 12345678, may: {m: }, name: ann}}": "F:1: pbs.a@pbs.may.m: want some of read, backup and prune, got nothing\nF:1: pbs.a@pbs.name: unknown field; known are secret, may",
	} {
		path := write(t, text)
		_, err := LoadBackups(path)
		if err == nil {
			t.Errorf("%q: got no error, want %s", text, want)
		} else if got := strings.ReplaceAll(err.Error(), path, "F"); got != want {
			t.Errorf("%q:\ngot  %s\nwant %s", text, got, want)
		}
	}
	if _, err := LoadBackups("/not/there"); err == nil {
		t.Error("of no file: got no error")
	}
}
