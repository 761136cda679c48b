package httpcache

import (
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"

	"github.com/sarsen-build/sarsen/internal/refusal"
)

// sccacheCheck is what sccache reads and writes before its server starts.
const sccacheCheck = ".sccache_check"

// serveSccache serves the part of WebDAV that sccache needs; its endpoint is http://HOST/sccache/NAMESPACE. Every path
// with a slash at its end is a directory, so none has to be made. Whatever the store does, sccache's check
// succeeds: or sccache would not start, and the build with it. To a GET 404 is a miss. sccache counts failed writes
// and goes on; it tries a 503 again and again.
func serveSccache(x *exchange, rest []string) error {
	directory := len(rest) == 0 || strings.HasSuffix(x.r.URL.Path, "/")
	switch x.r.Method {
	case http.MethodOptions:
		x.w.Header().Set("DAV", "1")
		x.w.Header().Set("Allow", "OPTIONS, GET, HEAD, PUT, DELETE, PROPFIND, MKCOL")
		x.w.WriteHeader(http.StatusNoContent)
		return nil
	case "MKCOL":
		x.w.WriteHeader(http.StatusCreated)
		return nil
	case "PROPFIND":
		if _, err := x.message(64 * kib); err != nil {
			return err
		}
		if directory {
			return x.multistatus(nil)
		}
	}
	if directory {
		return refusal.New(http.StatusNotFound, "this is a directory")
	}
	p, err := pathOf(rest)
	if err != nil {
		return err
	}
	switch {
	case path.Base(p) == sccacheCheck:
		return x.check()
	case x.r.Method != "PROPFIND":
		return x.entry(p)
	}
	o, err := x.lookUp(p)
	if err != nil {
		return err
	}
	defer o.Close()
	return x.multistatus(&o.digest.Size)
}

// check lets sccache read and write its check without the store.
func (x *exchange) check() error {
	switch x.r.Method {
	case http.MethodPut:
		if _, err := x.message(64 * kib); err != nil {
			return err
		}
		x.done(true)
	case http.MethodDelete:
		x.w.WriteHeader(http.StatusNoContent)
	case http.MethodGet, http.MethodHead:
		whole(x.w, []byte("Hello, World!"))
	case "PROPFIND":
		return x.multistatus(new(int64(len("Hello, World!"))))
	default:
		return x.not("GET, HEAD, PUT, DELETE, PROPFIND")
	}
	return nil
}

// multistatus answers PROPFIND: of a file with so many bytes, or of a directory if size is nil.
func (x *exchange) multistatus(size *int64) error {
	var href strings.Builder
	if err := xml.EscapeText(&href, []byte(x.r.URL.EscapedPath())); err != nil {
		return err
	}
	kind := "<D:resourcetype><D:collection/></D:resourcetype>"
	if size != nil {
		kind = fmt.Sprintf("<D:resourcetype/><D:getcontentlength>%d</D:getcontentlength>", *size)
	}
	body := fmt.Sprintf(`<?xml version="1.0" encoding="utf-8"?>
<D:multistatus xmlns:D="DAV:"><D:response><D:href>%s</D:href><D:propstat><D:prop>%s<D:getlastmodified>%s</D:getlastmodified></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response></D:multistatus>
`, href.String(), kind, x.started.UTC().Format(http.TimeFormat))
	x.w.Header().Set("Content-Type", "application/xml; charset=utf-8")
	x.w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	x.w.WriteHeader(http.StatusMultiStatus)
	_, _ = io.WriteString(x.w, body) // the client is gone; net/http closes the connection
	return nil
}
