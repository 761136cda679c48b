package httpcache

import (
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

// kuraSum is a SHA-256 that an uploader vouches for, and gets back.
const kuraSum = "Tuist-Checksum-Sha256"

// maxKura bounds each handle and name in a query, in bytes.
const maxKura = 255

// serveKura serves what Kura serves, at its own paths: /api/cache/ with cas and keyvalue for Xcode, gradle, module, and
// clean. Here the query has the namespace, a tenant's and a project's name. (Kura's Nx and Metro routes are those of
// the dialects of that name, in namespaces of that name.) Its clients wait and try again after 429.
func serveKura(x *exchange, rest []string) error {
	x.w.form = kuraForm
	query := x.r.URL.Query()
	tenant, err := kuraName(query, "tenant_id", "account_handle")
	if err != nil {
		return err
	}
	project, err := kuraName(query, "namespace_id", "project_handle")
	if err != nil {
		return err
	}
	x.space.namespace = tenant + "/" + project
	if len(rest) == 0 {
		return x.kuraUnknown()
	}
	switch what, rest := rest[0], rest[1:]; {
	case what == "clean" && len(rest) == 0:
		if x.r.Method != http.MethodDelete {
			return x.not("DELETE")
		}
		return x.clean()
	case what == "cas" && len(rest) == 1:
		return x.kuraCAS(rest[0])
	case what == "keyvalue" && len(rest) <= 1:
		return x.kuraValue(rest)
	case what == "gradle" && len(rest) == 1:
		return x.kuraGradle(rest[0])
	case what == "module" && len(rest) == 1:
		return x.kuraModule(rest[0], query)
	}
	return x.kuraUnknown()
}

func (x *exchange) kuraUnknown() error {
	return refusal.New(http.StatusNotFound, "no such path; there is %s", dialects[routeKura].usage)
}

// kuraForm is how Kura's clients are told that something went wrong.
func kuraForm(_ int, what string) (contentType string, body []byte) {
	return errorJSON(map[string]string{"message": what})
}

// kuraName returns a value of the query, which goes by any of keys.
func kuraName(query url.Values, keys ...string) (string, error) {
	for _, key := range keys {
		if v := query.Get(key); v != "" {
			return v, kuraSegment(key, v)
		}
	}
	return "", refusal.New(http.StatusUnprocessableEntity, "the query lacks %s", strings.Join(keys, " or "))
}

// kuraSegment refuses what is no segment of a path.
func kuraSegment(key, v string) error {
	if v == "." || v == ".." || len(v) > maxKura || strings.ContainsAny(v, "/\\\x00") || !utf8.ValidString(v) {
		return refusal.New(http.StatusUnprocessableEntity, "%s must be a name of at most %d bytes of UTF-8 without slashes", key, maxKura)
	}
	return nil
}

// kuraCAS takes POST and GET of what Xcode compiled.
func (x *exchange) kuraCAS(id string) error {
	if err := kuraSegment("the identifier", id); err != nil {
		return err
	}
	switch x.r.Method {
	case http.MethodPost, http.MethodPut:
		return x.kuraTake("cas/" + id)
	case http.MethodGet, http.MethodHead:
		return x.get("cas/"+id, "application/octet-stream")
	}
	return x.not("GET, HEAD, POST")
}

// kuraGradle takes PUT and GET of Gradle's entries, as Tuist's plugin for Gradle sends them.
func (x *exchange) kuraGradle(key string) error {
	x.answers = forKuraGradle
	if err := kuraSegment("the key", key); err != nil {
		return err
	}
	switch x.r.Method {
	case http.MethodPut:
		if x.r.ContentLength < 0 {
			return refusal.New(http.StatusUnprocessableEntity, "the request has no Content-Length")
		}
		return x.kuraTake("gradle/" + key)
	case http.MethodGet, http.MethodHead:
		return x.get("gradle/"+key, "application/octet-stream")
	}
	return x.not("GET, HEAD, PUT")
}

// kuraTake receives the entry at path and compares it with its checksum, if it came with one.
func (x *exchange) kuraTake(path string) error {
	sum := x.r.Header.Get(kuraSum)
	if err := wellFormedSum(sum); err != nil {
		return err
	}
	body, err := x.receive(path)
	if err != nil {
		return err
	}
	if body == nil {
		x.done(false)
		return nil
	}
	if err := matches(sum, body.digest); err != nil {
		body.Close()
		return err
	}
	stored, err := x.commit(path, keptSum(sum), body)
	if err != nil {
		return err
	}
	x.done(stored)
	return nil
}

// wellFormedSum refuses what is no SHA-256; none is well-formed.
func wellFormedSum(sum string) error {
	if _, err := hex.DecodeString(sum); err != nil || sum != "" && !isHex(sum, 64) {
		return refusal.New(http.StatusBadRequest, "the checksum must be a SHA-256 in 64 lower-case hexadecimal digits")
	}
	return nil
}

func matches(sum string, got digest.Digest) error {
	if sum != "" && sum != got.Hex() {
		return refusal.New(http.StatusUnprocessableEntity, "what came has the checksum %s, declared was %s", got.Hex(), sum)
	}
	return nil
}

func keptSum(sum string) []*repb.NodeProperty {
	if sum == "" {
		return nil
	}
	return []*repb.NodeProperty{{Name: kuraSum, Value: sum}}
}

// kuraValues is what Xcode keeps under a key.
type kuraValues struct {
	ID      string      `json:"cas_id,omitempty"`
	Entries []kuraEntry `json:"entries"`
}

type kuraEntry struct {
	Value string `json:"value"`
}

// kuraValue takes PUT of values, whose body has the key, and GET of them, whose path has it.
func (x *exchange) kuraValue(rest []string) error {
	x.answers = forKuraValue
	switch read := x.r.Method == http.MethodGet || x.r.Method == http.MethodHead; {
	case read && len(rest) == 1:
		return x.get("keyvalue/"+rest[0], "application/json")
	case read || len(rest) == 1 || x.r.Method != http.MethodPut:
		return x.not("PUT without a key, GET and HEAD with one")
	}
	data, err := x.message(x.max)
	if err != nil {
		return err
	}
	var v kuraValues
	if err := json.Unmarshal(data, &v); err != nil || v.ID == "" || v.Entries == nil {
		return refusal.New(http.StatusBadRequest, "the body must be JSON with cas_id and entries")
	}
	if err := kuraSegment("cas_id", v.ID); err != nil {
		return err
	}
	path := "keyvalue/" + v.ID
	v.ID = ""
	if data, err = json.Marshal(v); err != nil {
		return err
	}
	stored, err := x.commit(path, nil, receivedWhole(data))
	if err != nil {
		return err
	}
	x.done(stored)
	return nil
}
