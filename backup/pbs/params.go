package pbs

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
)

// params are the parameters of a call, from its query, or from a body of JSON or of a form.
type params struct {
	query url.Values
	body  map[string]json.RawMessage
}

// maxParams bounds a body of parameters. A list of digests may be long.
const maxParams = 16 << 20

// paramsOf reads the parameters of a call. With body false, the body is something else.
func paramsOf(r *http.Request, body bool) (*params, error) {
	p := &params{}
	var err error
	if p.query, err = url.ParseQuery(r.URL.RawQuery); err != nil {
		return nil, badRequest("the query can't be read: %v", err)
	}
	if !body || r.Method == http.MethodGet || r.Method == http.MethodHead {
		return p, nil
	}
	b, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxParams))
	if err != nil {
		return nil, bodyError(err)
	}
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == "application/x-www-form-urlencoded" {
		form, err := url.ParseQuery(string(b))
		if err != nil {
			return nil, badRequest("the form can't be read: %v", err)
		}
		for name, values := range form {
			p.query[name] = append(p.query[name], values...)
		}
		return p, nil
	}
	if b = bytes.TrimSpace(b); len(b) == 0 {
		return p, nil
	}
	if err := json.Unmarshal(b, &p.body); err != nil {
		return nil, badRequest("the body is no JSON object: %v", err)
	}
	return p, nil
}

func bodyError(err error) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return err
	}
	return badRequest("the body can't be read: %v", err)
}

// text returns a parameter as text, and whether it is there.
func (p *params) text(name string) (string, bool) {
	if raw, ok := p.body[name]; ok && !bytes.Equal(raw, []byte("null")) {
		var s string
		if json.Unmarshal(raw, &s) == nil {
			return s, true
		}
		return string(raw), true // a number or a truth value
	}
	if v, ok := p.query[name]; ok && len(v) > 0 {
		return v[0], true
	}
	return "", false
}

func (p *params) need(name string) (string, error) {
	v, ok := p.text(name)
	if !ok {
		return "", badRequest("parameter verification failed - '%s': parameter is missing and it is not optional.", name)
	}
	return v, nil
}

func (p *params) number(name string) (int64, bool, error) {
	v, ok := p.text(name)
	if !ok {
		return 0, false, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		return 0, false, badRequest("parameter verification failed - '%s': %q is not a number", name, v)
	}
	return n, true, nil
}

func (p *params) needNumber(name string) (int64, error) {
	n, ok, err := p.number(name)
	if err == nil && !ok {
		_, err = p.need(name)
	}
	return n, err
}

// truth returns a truth value, which is false if it is not there.
func (p *params) truth(name string) (bool, error) {
	switch v, _ := p.text(name); v {
	case "", "0", "false", "no", "off":
		return false, nil
	case "1", "true", "yes", "on":
		return true, nil
	default:
		return false, badRequest("parameter verification failed - '%s': %q is no truth value", name, v)
	}
}

func parseDigest(text string) (d [32]byte, err error) {
	if len(text) != 64 {
		return d, badRequest("parameter verification failed - %q is not a digest", text)
	}
	if _, err := hex.Decode(d[:], []byte(text)); err != nil {
		return d, badRequest("parameter verification failed - %q is not a digest", text)
	}
	return d, nil
}

func (p *params) digest(name string) ([32]byte, error) {
	text, err := p.need(name)
	if err != nil {
		return [32]byte{}, err
	}
	return parseDigest(text)
}

// list reads a list, which only a body can have.
func (p *params) list(name string, v any) error {
	raw, ok := p.body[name]
	if !ok {
		return badRequest("parameter verification failed - '%s': parameter is missing and it is not optional.", name)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return badRequest("parameter verification failed - '%s': %v", name, err)
	}
	return nil
}

// group reads backup-type, backup-id and ns.
func (p *params) group() (g group, err error) {
	g.ns, _ = p.text("ns")
	if g.kind, err = p.need("backup-type"); err != nil {
		return g, err
	}
	if g.id, err = p.need("backup-id"); err != nil {
		return g, err
	}
	return g, g.check()
}

// snapshotName reads a group and backup-time.
func (p *params) snapshotName() (n snapshotName, err error) {
	if n.group, err = p.group(); err != nil {
		return n, err
	}
	if n.time, err = p.needNumber("backup-time"); err != nil {
		return n, err
	}
	return n, n.check()
}
