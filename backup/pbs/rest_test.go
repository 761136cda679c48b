package pbs_test

import (
	"bufio"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sarsen-build/sarsen/backup/pbs"
	"github.com/sarsen-build/sarsen/backup/pbs/format"
	"github.com/sarsen-build/sarsen/internal/pbstest"
)

func TestAuthentication(t *testing.T) {
	f := start(t, forgets())
	version := func(header string) error {
		c := *f.Client
		c.Auth = header
		return c.REST(t.Context(), "GET", "/version", nil, nil, nil)
	}
	for _, good := range []string{
		"PBSAPIToken=root@pam!all:" + secret,
		"PBSAPIToken root@pam!all:" + secret,
		"PBSAPIToken root@pam!all:" + url.PathEscape(secret), // as the official client sends it
	} {
		if err := version(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "PBSAPIToken=root@pam!all:wrong", "PBSAPIToken=root@pam!all", "PBSAPIToken=other@pam!all:" + secret,
		"PBSAPIToken=ann@pbs:" + secret, "PBSAPIToken=:", "Basic cm9vdDpzZWNyZXQ="} {
		refused(t, bad, version(bad), 401, "authentication failed")
	}
	var pong struct{ Pong bool }
	c := *f.Client
	c.Auth = ""
	if err := c.REST(t.Context(), "GET", "/ping", nil, nil, &pong); err != nil || !pong.Pong {
		t.Errorf("ping = %v, %v", pong, err)
	}
	var v struct{ Version, Release string }
	if err := f.REST(t.Context(), "GET", "/version", nil, nil, &v); err != nil || v.Version == "" || v.Release == "" {
		t.Errorf("version = %+v, %v", v, err)
	}
	c.Fingerprint = strings.Repeat("00:", 31) + "00"
	if err := c.REST(t.Context(), "GET", "/ping", nil, nil, nil); err == nil || !strings.Contains(err.Error(), "fingerprint") {
		t.Errorf("another fingerprint: %v", err)
	}
}

func TestTickets(t *testing.T) {
	f := start(t, forgets())
	type ticket struct{ Username, Ticket, CSRFPreventionToken string }
	login := func(user, password string) (got ticket, err error) {
		c := *f.Client
		c.Auth = ""
		return got, c.REST(t.Context(), "POST", "/access/ticket", nil, []byte(fmt.Sprintf(`{"username":%q,"password":%q}`, user, password)), &got)
	}
	_, err := login("ann@pbs", "wrong")
	refused(t, "a wrong password", err, 401, "authentication failed")
	_, err = login("ann@pbs!laptop", secret)
	refused(t, "a token that logs in", err, 401, "authentication failed")
	got, err := login("ann@pbs", secret)
	if err != nil || got.Username != "ann@pbs" || !strings.HasPrefix(got.Ticket, "PBS:ann@pbs:") {
		t.Fatalf("login = %+v, %v", got, err)
	}
	if _, err := login("ann@pbs", got.Ticket); err != nil {
		t.Errorf("a new ticket for the old one: %v", err)
	}
	_, err = login("root@pam", got.Ticket)
	refused(t, "somebody else's ticket", err, 401, "authentication failed")

	with := func(cookie, value, csrf string) *pbstest.Client {
		c := *f.Client
		c.Auth = ""
		c.Header = http.Header{"Cookie": {cookie + "=" + url.PathEscape(value)}}
		if csrf != "" {
			c.Header.Set("CSRFPreventionToken", csrf)
		}
		return &c
	}
	name := url.Values{"name": {"a"}}
	for _, cookie := range []string{"PBSAuthCookie", "__Host-PBSAuthCookie"} {
		if err := with(cookie, got.Ticket, "").Admin(t.Context(), "GET", "namespace", nil, nil); err != nil {
			t.Errorf("%s: %v", cookie, err)
		}
	}
	refused(t, "a change without the CSRF token", with("PBSAuthCookie", got.Ticket, "").Admin(t.Context(), "POST", "namespace", name, nil), 401, "CSRF")
	refused(t, "a change with another one", with("PBSAuthCookie", got.Ticket, "6000:aa").Admin(t.Context(), "POST", "namespace", name, nil), 401, "CSRF")
	if err := with("PBSAuthCookie", got.Ticket, got.CSRFPreventionToken).Admin(t.Context(), "POST", "namespace", name, nil); err != nil {
		t.Errorf("a change with the CSRF token: %v", err)
	}
	refused(t, "a ticket with another name", with("PBSAuthCookie", strings.Replace(got.Ticket, "ann", "eve", 1), "").Admin(t.Context(), "GET", "namespace", nil, nil), 401, "invalid")
	refused(t, "the CSRF token for a ticket", with("PBSAuthCookie", "PBS:ann@pbs:"+strings.Replace(got.CSRFPreventionToken, ":", "::", 1), "").Admin(t.Context(), "GET", "namespace", nil, nil), 401, "invalid")
}

// TestRights: who may do what, and whose groups are whose.
func TestRights(t *testing.T) {
	f := startWith(t, forgets(), func(o *pbs.Options) {
		o.Access.Accounts = append(slices.Clone(access.Accounts),
			pbs.Account{Name: "ann@pbs!pruner", Secret: pbs.SecretOf(secret), Grants: []pbs.Grant{{"main", "", pbs.Prune | pbs.Backup}}})
	})
	laptop, reader, nobody := f.as("ann@pbs!laptop"), f.as("bob@pbs!reader"), f.as("nobody@pbs!none")
	backUp(t, laptop, host, nil, bytesOf(1, 1000))
	other := pbstest.Snapshot{Type: "host", ID: "other", Time: 5}
	backUp(t, f.Client, other, nil, bytesOf(2, 1000))
	if got := snapshotsOf(t, laptop, nil); !reflect.DeepEqual(got, []int64{0}) {
		t.Errorf("a backup token sees %v, want its own", got)
	}
	if got := snapshotsOf(t, f.Client, nil); len(got) != 2 {
		t.Errorf("a reader of everything sees %v, want both", got)
	}
	_, err := laptop.Restore(t.Context(), other, nil)
	refused(t, "a restore of another's", err, 403, "read")
	_, err = laptop.Backup(t.Context(), at(other, 5), nil, nil)
	refused(t, "a backup into another's group", err, 403, "owner")
	refused(t, "a backup token that forgets", laptop.Admin(t.Context(), "DELETE", "snapshots", host.Query(), nil), 403, "prune")
	restore(t, laptop, host, nil, "root.pxar.didx", bytesOf(1, 1000))

	for _, ns := range []url.Values{{"name": {"team"}}, {"name": {"a"}, "parent": {"team"}}, {"name": {"deep"}, "parent": {"team/a"}}, {"name": {"b"}, "parent": {"team"}}} {
		if err := f.Admin(t.Context(), "POST", "namespace", ns, nil); err != nil {
			t.Fatal(err)
		}
	}
	deep := pbstest.Snapshot{NS: "team/a/deep", Type: "vm", ID: "100", Time: 7}
	backUp(t, f.Client, deep, nil, bytesOf(3, 1000))
	restore(t, reader, deep, nil, "root.pxar.didx", bytesOf(3, 1000))
	refused(t, "a list beyond the grant", reader.Admin(t.Context(), "GET", "snapshots", nil, nil), 403, "read")
	refused(t, "a list beside the grant", reader.Admin(t.Context(), "GET", "snapshots", url.Values{"ns": {"team/b"}}, nil), 403, "read")
	_, err = reader.Backup(t.Context(), at(deep, 1), nil, nil)
	refused(t, "a backup by a reader", err, 403, "backup")
	var seen []struct{ NS string }
	if err := reader.Admin(t.Context(), "GET", "namespace", nil, &seen); err != nil || len(seen) != 2 {
		t.Errorf("a reader of team/a sees the namespaces %v, %v", seen, err)
	}
	refused(t, "a stranger", nobody.Admin(t.Context(), "GET", "status", nil, nil), 403, "main")
	var stores []struct{ Store string }
	if err := nobody.REST(t.Context(), "GET", "/admin/datastore", nil, nil, &stores); err != nil || len(stores) != 0 {
		t.Errorf("a stranger sees the datastores %v, %v", stores, err)
	}
	// Of ann's token's groups ann is the owner too, who may prune them.
	pruner := f.as("ann@pbs!pruner")
	refused(t, "another token of the same user", pruner.Admin(t.Context(), "DELETE", "snapshots", host.Query(), nil), 403, "prune")
	if err := f.Admin(t.Context(), "POST", "change-owner", with(host.Query(), "new-owner", "ann@pbs!pruner"), nil); err != nil {
		t.Fatal(err)
	}
	if err := pruner.Admin(t.Context(), "DELETE", "snapshots", host.Query(), nil); err != nil {
		t.Errorf("the new owner: %v", err)
	}
	refused(t, "an owner whom nobody knows", f.Admin(t.Context(), "POST", "change-owner", with(other.Query(), "new-owner", "eve@pbs"), nil), 400, "no account")
}

// TestSnapshotCalls: the calls about snapshots and their group, one after the other on the same two snapshots.
func TestSnapshotCalls(t *testing.T) {
	f := start(t, forgets())
	data := bytesOf(1, 50<<10)
	backUp(t, f.Client, host, nil, data)
	backUp(t, f.Client, at(host, 10), nil, data)
	t.Run("notes", func(t *testing.T) {
		if err := f.Admin(t.Context(), "PUT", "notes", with(host.Query(), "notes", "first line\nsecond"), nil); err != nil {
			t.Fatal(err)
		}
		var notes string
		if err := f.Admin(t.Context(), "GET", "notes", host.Query(), &notes); err != nil || notes != "first line\nsecond" {
			t.Errorf("notes = %q, %v", notes, err)
		}
		restore(t, f.Client, host, nil, "root.pxar.didx", data) // what changed in the manifest was not signed
	})
	t.Run("protected", func(t *testing.T) {
		if err := f.Admin(t.Context(), "PUT", "protected", with(host.Query(), "protected", "true"), nil); err != nil {
			t.Fatal(err)
		}
		refused(t, "to forget what is protected", f.Admin(t.Context(), "DELETE", "snapshots", host.Query(), nil), 400, "protected")
	})
	t.Run("snapshots", func(t *testing.T) {
		var items []struct {
			Type  string `json:"backup-type"`
			ID    string `json:"backup-id"`
			Owner string
			Size  int64
			Files []struct {
				Filename string
				Size     int64
			}
			Comment   string
			Protected bool
		}
		if err := f.Admin(t.Context(), "GET", "snapshots", nil, &items); err != nil {
			t.Fatal(err)
		}
		i := items[0]
		if len(items) != 2 || i.Type != "host" || i.ID != "box" || i.Owner != "root@pam!all" || len(i.Files) != 3 || i.Size < 50<<10 || i.Comment != "first line" || !i.Protected {
			t.Errorf("snapshots = %+v", items)
		}
		if f := i.Files[2]; f.Filename != "root.pxar.didx" || f.Size != 50<<10 {
			t.Errorf("files = %+v", i.Files)
		}
	})
	t.Run("upload-backup-log", func(t *testing.T) {
		log := format.EncodeBlob([]byte("all is well"))
		post := func(body []byte) error {
			return f.REST(t.Context(), "POST", "/admin/datastore/main/upload-backup-log", at(host, 10).Query(), body, nil)
		}
		refused(t, "a log that is none", post([]byte("all is well")), 400, "")
		if err := post(log); err != nil {
			t.Fatal(err)
		}
		refused(t, "a second log", post(log), 400, "already")
		var raw []byte
		if err := f.Admin(t.Context(), "GET", "download", with(at(host, 10).Query(), "file-name", "client.log.blob"), &raw); err != nil || string(raw) != string(log) {
			t.Errorf("the log = %q, %v", raw, err)
		}
	})
	t.Run("groups", func(t *testing.T) {
		var groups []struct {
			Count int   `json:"backup-count"`
			Last  int64 `json:"last-backup"`
			Owner string
		}
		if err := f.Admin(t.Context(), "GET", "groups", nil, &groups); err != nil || len(groups) != 1 || groups[0].Count != 2 || groups[0].Last != host.Time+10 {
			t.Errorf("groups = %+v, %v", groups, err)
		}
	})
	t.Run("gc", func(t *testing.T) {
		if exit, log := task(t, f.Client, "gc", nil); exit != "OK" || !strings.Contains(log, "2 index files") {
			t.Errorf("gc = %s, %s", exit, log)
		}
		var gc struct {
			Chunks int64 `json:"disk-chunks"`
			Files  int64 `json:"index-file-count"`
		}
		if err := f.Admin(t.Context(), "GET", "gc", nil, &gc); err != nil || gc.Files != 2 || gc.Chunks != int64(len(pbstest.Cut(data))) {
			t.Errorf("gc = %+v, %v", gc, err)
		}
	})
	t.Run("DELETE groups", func(t *testing.T) {
		group := host
		group.Time = 0
		var removed map[string]int
		mild := with(group.Query(), "error-on-protected", "false")
		if err := f.Admin(t.Context(), "DELETE", "groups", mild, &removed); err != nil || removed["removed-snapshots"] != 1 || removed["protected-snapshots"] != 1 {
			t.Errorf("removed %v, %v", removed, err)
		}
		refused(t, "to remove a group of which something is protected", f.Admin(t.Context(), "DELETE", "groups", group.Query(), nil), 400, "protected")
		if err := f.Admin(t.Context(), "PUT", "protected", with(host.Query(), "protected", "0"), nil); err != nil {
			t.Fatal(err)
		}
		if err := f.Admin(t.Context(), "DELETE", "groups", group.Query(), nil); err != nil {
			t.Fatal(err)
		}
		atRest(t, f)
		if got := roots(t, f.store); len(got) != 0 {
			t.Errorf("a removed group leaves %q", got)
		}
	})
	t.Run("of what is not there", func(t *testing.T) {
		refused(t, "a file of no snapshot", f.Admin(t.Context(), "GET", "files", host.Query(), nil), 404, "does not exist")
		refused(t, "the catalog of no snapshot", f.Admin(t.Context(), "GET", "catalog", with(host.Query(), "filepath", "root"), nil), 404, "does not exist")
		refused(t, "a call that is none", f.REST(t.Context(), "GET", "/nodes/x/none", nil, nil, nil), 404, "not found")
	})
}

func TestNamespaces(t *testing.T) {
	f := start(t, forgets())
	create := func(parent, name string) error {
		return f.Admin(t.Context(), "POST", "namespace", url.Values{"parent": {parent}, "name": {name}}, nil)
	}
	for _, ns := range [][2]string{{"", "a"}, {"a", "b"}, {"a/b", "vm"}, {"", "ab"}} {
		if err := create(ns[0], ns[1]); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, "a namespace twice", create("", "a"), 400, "exists already")
	refused(t, "a parent that is not there", create("x", "y"), 404, "does not exist")
	refused(t, "a name with a slash", create("", "x/y"), 400, "name")
	refused(t, "too deep", create("a/b/c/d/e/f/g", "h"), 400, "levels")
	list := func(q url.Values) (all []string) {
		var items []struct{ NS string }
		if err := f.Admin(t.Context(), "GET", "namespace", q, &items); err != nil {
			t.Fatal(err)
		}
		for _, i := range items {
			all = append(all, i.NS)
		}
		return all
	}
	if got, want := list(nil), []string{"", "a", "a/b", "a/b/vm", "ab"}; !reflect.DeepEqual(got, want) {
		t.Errorf("namespaces = %q, want %q", got, want)
	}
	if got, want := list(url.Values{"parent": {"a"}, "max-depth": {"1"}}), []string{"a", "a/b"}; !reflect.DeepEqual(got, want) {
		t.Errorf("namespaces below a = %q, want %q", got, want)
	}
	// The same group in three namespaces is three groups.
	for i, ns := range []string{"", "a", "a/b/vm"} {
		s := pbstest.Snapshot{NS: ns, Type: "vm", ID: "100", Time: host.Time + int64(i)}
		backUp(t, f.Client, s, nil, bytesOf(uint64(i), 1000))
		if got := snapshotsOf(t, f.Client, url.Values{"ns": {ns}}); !reflect.DeepEqual(got, []int64{int64(i)}) {
			t.Errorf("in %q: %v, want %d", ns, got, i)
		}
		restore(t, f.Client, s, nil, "root.pxar.didx", bytesOf(uint64(i), 1000))
	}
	refused(t, "a namespace with backups", f.Admin(t.Context(), "DELETE", "namespace", url.Values{"ns": {"a"}}, nil), 400, "not empty")
	if err := f.Admin(t.Context(), "DELETE", "namespace", url.Values{"ns": {"a"}, "delete-groups": {"1"}}, nil); err != nil {
		t.Fatal(err)
	}
	if got, want := list(nil), []string{"", "ab"}; !reflect.DeepEqual(got, want) {
		t.Errorf("namespaces = %q, want %q", got, want)
	}
}

// TestTraps is what clients in the field send, and no library of Go's would.
func TestTraps(t *testing.T) {
	f := start(t, forgets())
	raw := func(request string) (*http.Response, error) {
		conn, err := f.Dial(t.Context())
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprint(conn, strings.ReplaceAll(request, "\n", "\r\n"))
		return http.ReadResponse(bufio.NewReader(conn), nil)
	}
	auth := "Authorization: " + f.Auth + "\n"
	for name, test := range map[string]struct {
		request string
		want    int
	}{
		"no Host header":      {"GET /api2/json/version HTTP/1.1\n" + auth + "\n", 200},
		"a Host header":       {"GET /api2/json/version HTTP/1.1\nhost: x\n" + auth + "\n", 200},
		"two slashes":         {"GET //api2/json/version HTTP/1.1\nHost: x\n" + auth + "\n", 200},
		"a path in its midst": {"GET /api2//json///version HTTP/1.1\n" + auth + "\n", 200},
		"no upgrade":          {"GET /api2/json/backup?store=main HTTP/1.1\n" + auth + "\n", 400},
		"another upgrade":     {"GET /api2/json/reader?store=main HTTP/1.1\nUpgrade: proxmox-backup-protocol-v1\nConnection: Upgrade\n" + auth + "\n", 400},
		"no HTTP":             {"HELO\n\n", 400},
	} {
		got, err := raw(test.request)
		if err != nil || got.StatusCode != test.want {
			t.Errorf("%s: got %v, %v, want %d", name, got, err, test.want)
		}
	}
}

// TestReaderRules: a connection reads one snapshot, and of its chunks those whose index it has.
func TestReaderRules(t *testing.T) {
	f := start(t, forgets())
	data := bytesOf(1, 50<<10)
	backUp(t, f.Client, host, nil, data)
	r, err := f.Restore(t.Context(), host, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	d := (*pbstest.Key)(nil).Digest(pbstest.Cut(data)[0])
	_, err = r.Chunk(t.Context(), d)
	refused(t, "a chunk before its index", err, 401, "not allowed")
	_, err = r.Download(t.Context(), "other.didx")
	refused(t, "a file that is not there", err, 404, "no such file")
	if _, err := r.Download(t.Context(), "root.pxar.didx"); err != nil {
		t.Fatal(err)
	}
	// It is held, whoever forgets it.
	if err := f.Admin(t.Context(), "DELETE", "snapshots", host.Query(), nil); err != nil {
		t.Fatal(err)
	}
	f.store.(interface{ Evict() }).Evict()
	if got, err := r.Archive(t.Context(), "root.pxar.didx"); err != nil || string(got) != string(data) {
		t.Errorf("a restore of what is forgotten meanwhile: %v", err)
	}
	var raw []byte
	if err := r.Call(t.Context(), "GET", "speedtest", nil, nil, &raw); err != nil || len(raw) != 1<<20 {
		t.Errorf("speedtest: %d bytes, %v", len(raw), err)
	}
	_, err = f.Restore(t.Context(), host, nil)
	refused(t, "a snapshot that is not there", err, 404, "does not exist")
}

func TestShutdown(t *testing.T) {
	f := start(t, forgets())
	b := begin(t, f.Client, host, nil)
	if err := b.Dynamic(t.Context(), "a.didx", bytesOf(1, 10000)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- b.Finish(t.Context()); b.Close() }()
	f.stop() // waits for it
	if err := <-done; err != nil {
		t.Errorf("a backup that was finished while the server stopped: %v", err)
	}
	if _, err := f.Backup(t.Context(), at(host, 1), nil, nil); err == nil {
		t.Error("a server that has stopped took a backup")
	}
}
