package httpcache

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"unicode/utf8"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

// What Turborepo sends with an artifact and wants back: how long the task took in milliseconds, the signature of
// whoever made it, and the commit.
const (
	artifactDuration = "X-Artifact-Duration"
	artifactTag      = "X-Artifact-Tag"
	artifactSHA      = "X-Artifact-Sha"
	artifactDirty    = "X-Artifact-Dirty-Hash"
)

const (
	// maxQuery bounds a batch query and a list of events, in bytes.
	maxQuery = 4 * mib
	// maxHashes is how many artifacts a batch query may name: each is a look-up.
	maxHashes = 10_000
)

// serveTurbo serves Turborepo's remote cache API, whose TURBO_API is http://HOST/turbo/NAMESPACE. Teams in the query
// mean nothing here: what is to be kept apart has a namespace of its own. To a GET 404 is a miss. A 403 must say in JSON
// why; then Turborepo warns and goes on without this cache. Other failures are warnings too, after retries.
func serveTurbo(x *exchange, rest []string) error {
	x.w.form = x.turboForm
	if len(rest) < 2 || rest[0] != "v8" || rest[1] != "artifacts" || len(rest) > 3 {
		return x.unknown()
	}
	if x.r.Method == http.MethodOptions {
		return x.preflight()
	}
	if len(rest) == 2 {
		return x.turboQuery()
	}
	switch hash := rest[2]; {
	case hash == "status" && x.r.Method == http.MethodGet:
		return x.json(map[string]string{"status": "enabled"})
	case hash == "events" && x.r.Method == http.MethodPost:
		// They are statistics for Vercel's own server. They are read, so that the connection can be used again.
		if _, err := x.message(maxQuery); err != nil {
			return err
		}
		return x.json(struct{}{})
	case x.r.Method == http.MethodPut:
		return x.turboPut(hash)
	default:
		path, err := pathOf(rest[2:])
		if err != nil {
			return err
		}
		return x.entry(path)
	}
}

func (x *exchange) turboPut(hash string) error {
	path, err := pathOf([]string{hash})
	if err != nil {
		return err
	}
	var kept []*repb.NodeProperty
	for _, name := range []string{artifactDuration, artifactTag, artifactSHA, artifactDirty} {
		if v := x.r.Header.Get(name); !utf8.ValidString(v) {
			return refusal.New(http.StatusBadRequest, "%s must be UTF-8", name)
		} else if v != "" {
			kept = append(kept, &repb.NodeProperty{Name: name, Value: v})
		}
	}
	if _, err := x.take(path, kept); err != nil {
		return err
	}
	x.w.Header().Set("Content-Type", "application/json")
	data, err := json.Marshal(map[string][]string{"urls": {"http://" + x.r.Host + x.r.URL.Path}})
	if err != nil {
		return err
	}
	x.w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	x.w.WriteHeader(x.stored)
	_, _ = x.w.Write(data) // the client is gone; net/http closes the connection
	return nil
}

// turboQuery answers which of many artifacts are here, each with a lease.
func (x *exchange) turboQuery() error {
	if x.r.Method != http.MethodPost {
		return x.not("POST, OPTIONS")
	}
	data, err := x.message(maxQuery)
	if err != nil {
		return err
	}
	var query struct {
		Hashes []string `json:"hashes"`
	}
	if err := json.Unmarshal(data, &query); err != nil {
		return refusal.New(http.StatusBadRequest, "the body is not a query in JSON: %v", err)
	}
	if len(query.Hashes) > maxHashes {
		return refusal.New(http.StatusRequestEntityTooLarge, "the query names more than the %d artifacts that are looked up at once", maxHashes)
	}
	answer, err := await(x.r.Context(), x.handler, x.patience, func(ctx context.Context) (map[string]*artifact, error) {
		return x.artifacts(ctx, x.space, query.Hashes)
	}, func(map[string]*artifact) {})
	if err != nil {
		return err
	}
	return x.json(answer)
}

// An artifact is what a batch query is told.
type artifact struct {
	Size     int64  `json:"size"`
	Duration int64  `json:"taskDurationMs"`
	Tag      string `json:"tag,omitempty"`
}

// artifacts returns those that are here, by hash, and nil for the others.
func (h *handler) artifacts(ctx context.Context, s space, hashes []string) (map[string]*artifact, error) {
	all := map[string]*artifact{}
	for _, hash := range hashes {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		e, err := h.find(ctx, s, hash)
		if errors.Is(err, blob.ErrNotFound) {
			all[hash] = nil
			continue
		}
		if err != nil {
			return nil, err
		}
		duration, _ := strconv.ParseInt(e.value(artifactDuration), 10, 64) // or zero
		all[hash] = &artifact{e.digest.Size, duration, e.value(artifactTag)}
	}
	return all, nil
}

// preflight answers what turbo asks with --preflight: where to go, which is here, and whether to send a token.
func (x *exchange) preflight() error {
	head := x.w.Header()
	head.Set("Access-Control-Allow-Methods", "GET, HEAD, PUT, POST, OPTIONS")
	head.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, User-Agent, "+artifactDuration+", "+artifactTag+", "+artifactSHA+", "+artifactDirty)
	x.w.WriteHeader(http.StatusNoContent)
	return nil
}

// turboForm is how Turborepo is told that something went wrong.
func (x *exchange) turboForm(code int, what string) (contentType string, body []byte) {
	reason := "unavailable"
	switch {
	case code == http.StatusForbidden && x.noRoom:
		reason = "remote_caching_over_limit"
	case code == http.StatusForbidden:
		reason = "remote_caching_paused"
	case code == http.StatusNotFound:
		reason = "not_found"
	}
	return errorJSON(map[string]any{"error": map[string]string{"code": reason, "message": what}})
}

func errorJSON(v any) (contentType string, body []byte) {
	data, _ := json.Marshal(v) // maps of strings can't fail
	return "application/json", append(data, '\n')
}
