package pbs

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/sarsen-build/sarsen/internal/refusal"
)

// The version that the server claims, of Proxmox Backup Server's releases: clients tell by it what a server can do.
const (
	apiVersion = "3.4"
	apiRelease = "1"
)

// newRoutes returns the REST interface.
func (s *Server) newRoutes() http.Handler {
	mux := http.NewServeMux()
	on := func(pattern string, c call) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { s.answer(w, r, c) })
	}
	const api = "/api2/json/"
	on("GET "+api+"ping", func(context.Context, http.ResponseWriter, *http.Request) (any, error) {
		return map[string]bool{"pong": true}, nil
	})
	on("POST "+api+"access/ticket", s.postTicket)
	on("GET "+api+"backup", func(ctx context.Context, w http.ResponseWriter, r *http.Request) (any, error) {
		return sent, s.upgrade(w, r, backupProtocol, func(p *params, a *Account) (protocol, error) { return s.beginBackup(ctx, p, a) })
	})
	on("GET "+api+"reader", func(ctx context.Context, w http.ResponseWriter, r *http.Request) (any, error) {
		return sent, s.upgrade(w, r, readerProtocol, func(p *params, a *Account) (protocol, error) { return s.beginReader(ctx, p, a) })
	})
	known := func(pattern string, c func(*request) (any, error)) {
		raw := strings.Contains(pattern, "upload-backup-log")
		on(pattern, func(ctx context.Context, w http.ResponseWriter, r *http.Request) (any, error) {
			a, err := s.authenticate(r)
			if err != nil {
				return nil, err
			}
			p, err := paramsOf(r, !raw)
			if err != nil {
				return nil, err
			}
			return c(&request{s, a, p, w, r})
		})
	}
	known("GET "+api+"version", func(*request) (any, error) {
		return map[string]string{"version": apiVersion, "release": apiRelease, "repoid": "sarsen"}, nil
	})
	known("GET "+api+"admin/datastore", (*request).datastores)
	known("GET "+api+"nodes/{node}/tasks", (*request).listTasks)
	known("GET "+api+"nodes/{node}/tasks/{upid}/status", (*request).taskStatus)
	known("GET "+api+"nodes/{node}/tasks/{upid}/log", (*request).taskLog)
	for pattern, c := range datastoreCalls {
		method, name, _ := strings.Cut(pattern, " ")
		known(method+" "+api+"admin/datastore/{store}/"+name, func(q *request) (any, error) {
			d, err := s.named(q.r.PathValue("store"), q.account)
			if err != nil {
				return nil, err
			}
			return c(q, d)
		})
	}
	on("/", func(_ context.Context, _ http.ResponseWriter, r *http.Request) (any, error) {
		return nil, refusal.New(http.StatusNotFound, "Path '%s %s' not found.", r.Method, r.URL.Path)
	})
	return mux
}

// datastoreCalls are the calls below admin/datastore/STORE.
var datastoreCalls = map[string]func(*request, *datastore) (any, error){
	"GET status":             (*request).status,
	"GET snapshots":          (*request).listSnapshots,
	"DELETE snapshots":       (*request).deleteSnapshot,
	"GET groups":             (*request).listGroups,
	"DELETE groups":          (*request).deleteGroup,
	"GET files":              (*request).listFiles,
	"GET notes":              (*request).getNotes,
	"PUT notes":              (*request).putNotes,
	"GET group-notes":        (*request).getGroupNotes,
	"PUT group-notes":        (*request).putGroupNotes,
	"GET protected":          (*request).getProtected,
	"PUT protected":          (*request).putProtected,
	"POST change-owner":      (*request).changeOwner,
	"GET namespace":          (*request).listNamespaces,
	"POST namespace":         (*request).createNamespace,
	"DELETE namespace":       (*request).deleteNamespace,
	"POST prune":             (*request).prune,
	"POST verify":            (*request).verify,
	"GET gc":                 (*request).gcStatus,
	"POST gc":                (*request).gc,
	"GET download":           (*request).download,
	"POST upload-backup-log": (*request).uploadLog,
	"GET catalog":            (*request).catalog,
	"GET pxar-file-download": (*request).pxarDownload,
}

// A request is a REST call of somebody who is known.
type request struct {
	server  *Server
	account *Account
	params  *params
	w       http.ResponseWriter
	r       *http.Request
}

// serveHTTP answers one request, whose path may have slashes too many: qemu's library sends two at the start.
func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	r.URL.Path = cleanPath(r.URL.Path)
	r.URL.RawPath = ""
	s.routes.ServeHTTP(w, r)
}

// cleanPath makes one slash of several.
func cleanPath(path string) string {
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	return path
}

// named returns a datastore by its name, if the account has anything to do there.
func (s *Server) named(name string, a *Account) (*datastore, error) {
	d := s.stores[name]
	switch {
	case d == nil && a != nil && len(a.Grants) > 0:
		return nil, refusal.New(http.StatusNotFound, "no such datastore '%s'", name)
	case d == nil || !a.sees(name):
		return nil, forbidden("access to datastore '" + name + "'")
	}
	return d, nil
}

func (s *Server) datastoreOf(p *params, a *Account) (*datastore, error) {
	name, err := p.need("store")
	if err != nil {
		return nil, err
	}
	return s.named(name, a)
}

// fail answers an error: a status and a plain sentence.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	code := statusOf(err)
	level := slog.LevelDebug
	if code >= http.StatusInternalServerError && code != http.StatusNotImplemented {
		level = slog.LevelWarn
	}
	s.log.Log(r.Context(), level, "a backup client was refused", "method", r.Method, "path", r.URL.Path, "code", code, "err", err)
	text := err.Error()
	if len(text) < 8 {
		text += "        " // a client in the field looks at eight bytes, whatever the status
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text))
}

func writeJSON(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // a value of our own that is none
	}
	w.Header().Set("Content-Type", "application/json;charset=UTF-8")
	_, _ = w.Write(b)
}

// postTicket logs in with a password, or with a ticket that is still good.
func (s *Server) postTicket(_ context.Context, _ http.ResponseWriter, r *http.Request) (any, error) {
	p, err := paramsOf(r, true)
	if err != nil {
		return nil, err
	}
	name, err := p.need("username")
	if err != nil {
		return nil, err
	}
	password, err := p.need("password")
	if err != nil {
		return nil, err
	}
	a := s.ofTicket(password)
	if a == nil || a.Name != name {
		a = s.login(name, password)
	}
	if a == nil || a.isToken() {
		s.log.Warn("a login was refused", "user", name, "from", r.RemoteAddr)
		return nil, errNoAuth
	}
	return map[string]string{"username": a.Name, "ticket": s.ticket(a.Name), "CSRFPreventionToken": s.csrf(a.Name)}, nil
}

func (q *request) datastores() (any, error) {
	items := []map[string]string{}
	for name := range q.server.stores {
		if q.account.sees(name) {
			items = append(items, map[string]string{"store": name})
		}
	}
	slices.SortFunc(items, func(a, b map[string]string) int { return strings.Compare(a["store"], b["store"]) })
	return items, nil
}

func (q *request) status(d *datastore) (any, error) {
	var total, used int64
	if d.Space != nil {
		total, used = d.Space()
	}
	answer := map[string]any{"total": total, "used": used, "avail": max(0, total-used)}
	if verbose, err := q.params.truth("verbose"); err != nil {
		return nil, err
	} else if verbose {
		answer["gc-status"] = d.collectedLast()
	}
	return answer, nil
}
