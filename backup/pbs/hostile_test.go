package pbs_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/sarsen-build/sarsen/backup/pbs"
	"github.com/sarsen-build/sarsen/backup/pbs/format"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/pbstest"
)

// TestOldTicket: whoever gets a new password makes tickets worthless that somebody got with the old one.
func TestOldTicket(t *testing.T) {
	id, err := pbs.LoadIdentity(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := startWith(t, forgets(), func(o *pbs.Options) { o.Identity = id })
	anonymous := *f.Client
	anonymous.Auth = ""
	var got struct{ Ticket string }
	login := fmt.Appendf(nil, `{"username":"ann@pbs","password":%q}`, secret)
	if err := anonymous.REST(t.Context(), "POST", "/access/ticket", nil, login, &got); err != nil {
		t.Fatal(err)
	}
	anonymous.Header = http.Header{"Cookie": {"PBSAuthCookie=" + url.PathEscape(got.Ticket)}}
	if err := anonymous.Admin(t.Context(), "GET", "namespace", nil, nil); err != nil {
		t.Fatal(err)
	}
	f.stop()
	f = startWith(t, f.store, func(o *pbs.Options) {
		o.Identity = id
		o.Access.Accounts = slices.Clone(access.Accounts)
		for i := range o.Access.Accounts {
			o.Access.Accounts[i].Secret = pbs.SecretOf("another secret")
		}
	})
	anonymous.Addr = f.Addr
	refused(t, "an old ticket", anonymous.Admin(t.Context(), "GET", "namespace", nil, nil), 401, "invalid")
	anonymous.Header = nil
	login = fmt.Appendf(nil, `{"username":"ann@pbs","password":%q}`, got.Ticket)
	refused(t, "a new ticket for it", anonymous.REST(t.Context(), "POST", "/access/ticket", nil, login, nil), 401, "failed")
}

// TestManifestLies: what a client's manifest says can't make lists unreadable for others, nor a snapshot look verified.
func TestManifestLies(t *testing.T) {
	f := start(t, forgets())
	b := begin(t, f.Client, host, nil)
	manifest := format.EncodeBlob([]byte(`{"backup-type":"vm","backup-id":"else","backup-time":-5,"files":[{"filename":"a.didx","crypt-mode":"none of these"}],
		"unprotected":{"key-fingerprint":"no fingerprint","notes":["no","text"],"verify_state":{"state":"ok","upid":"UPID:x"}}}`))
	q := url.Values{"file-name": {format.ManifestName}, "encoded-size": {fmt.Sprint(len(manifest))}}
	err := errors.Join(b.Dynamic(t.Context(), "a.didx", bytesOf(1, 1000)), b.Call(t.Context(), "POST", "blob", q, manifest, nil), b.Call(t.Context(), "POST", "finish", nil, nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	var items []map[string]any
	if err := f.Admin(t.Context(), "GET", "snapshots", nil, &items); err != nil || len(items) != 1 {
		t.Fatalf("%v, %v", items, err)
	}
	for _, name := range []string{"fingerprint", "comment", "verification"} {
		if v, ok := items[0][name]; ok {
			t.Errorf("%s is listed as %v", name, v)
		}
	}
	for _, v := range items[0]["files"].([]any) {
		if mode := v.(map[string]any)["crypt-mode"]; mode != nil && mode != "none" {
			t.Errorf("a file is listed as %v", v)
		}
	}
}

// TestPreviousTime: a snapshot that clients can't build upon is no previous one.
func TestPreviousTime(t *testing.T) {
	store := &shy{Store: forgets()}
	f := start(t, store)
	backUp(t, f.Client, host, nil, bytesOf(1, 1000))
	previous := func(s pbstest.Snapshot) (at *int64) {
		b := begin(t, f.Client, s, nil)
		defer b.Close()
		if err := b.Call(t.Context(), "GET", "previous_backup_time", nil, nil, &at); err != nil {
			t.Fatal(err)
		}
		return at
	}
	if got := previous(at(host, 10)); got == nil || *got != host.Time {
		t.Errorf("the previous backup is of %v, want %d", got, host.Time)
	}
	atRest(t, &fixture{server: f.server, store: store.Store})
	root, err := blob.KeptRoot(t.Context(), store, "pbs/main/host/box/2023-11-14T22:13:20Z")
	if err != nil {
		t.Fatal(err)
	}
	store.hide(1000, root.Few...)
	if got := previous(at(host, 10)); got != nil {
		t.Errorf("a lost backup is offered as the previous one: %d", *got)
	}
}

// TestGroupWithNamespace: a group whose snapshots are all forgotten has an owner still, who goes with the namespace.
func TestGroupWithNamespace(t *testing.T) {
	f := start(t, forgets())
	s := pbstest.Snapshot{NS: "a", Type: "vm", ID: "100", Time: 5}
	for range 2 {
		if err := f.Admin(t.Context(), "POST", "namespace", url.Values{"name": {"a"}}, nil); err != nil {
			t.Fatal(err)
		}
		backUp(t, f.Client, s, nil, bytesOf(1, 1000))
		if err := f.Admin(t.Context(), "DELETE", "snapshots", s.Query(), nil); err != nil {
			t.Fatal(err)
		}
		var removed map[string]int
		err := f.Admin(t.Context(), "DELETE", "namespace", url.Values{"ns": {"a"}, "delete-groups": {"1"}}, &removed)
		if err != nil || removed["removed-groups"] != 1 {
			t.Errorf("removed %v, %v", removed, err)
		}
		atRest(t, f)
		for _, name := range roots(t, f.store) {
			if strings.HasPrefix(name, "pbs/main/ns") {
				t.Errorf("a removed namespace leaves %q", name)
			}
		}
	}
}
