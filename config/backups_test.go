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
`))
	if err != nil {
		t.Fatal(err)
	}
	want := &Backups{
		Restic: map[string]Repository{"laptop": {"secret-1", true, "secret-2", 100e9}, "open": {}},
		Casync: map[string]Repository{"images": {Token: "secret-3"}},
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
		"borg: {}":                       "F:1: borg: unknown field; known are restic, casync",
		"restic: {a: {tokn: secret-1}}":  "F:1: restic.a.tokn: unknown field; known are append-only, maintenance-token, quota, token",
		"restic:\n  a: {token: short}":   "F:2: restic.a.token: a token has 8 characters at least; leave it out to let everybody in",
		"restic: {a: {append-only: on}}": `F:1: restic.a.append-only: "on" is neither true nor false`,
		"restic: {a: {quota: lots}}":     `F:1: restic.a.quota: "lots" is not a size; write a number and a unit, like 50GB or 16MiB`,
		"restic: {a: {quota: }}":         "F:1: restic.a.quota: want a value, got nothing",
		"restic: [a]":                    "F:1: restic: want NAME: VALUE lines, got a list",
		"restic:\n  a:\n  a:":            "F:3: restic.a: set twice; keep one",
		"restic: {[a]: b}":               "F:1: restic: want a name, got a list",
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
