package httpcache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

// nixInfo is nix-cache-info for a cache into which nobody put another.
const nixInfo = "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n"

// maxNarinfo bounds a .narinfo that is looked into, in bytes.
const maxNarinfo = mib

// serveNix serves a Nix binary cache, http://HOST/nix/NAMESPACE. To a GET 404 is a miss. Files are opaque, but for
// one thing: a .narinfo whose archive is gone is not served, since Nix would count on the archive.
func serveNix(x *exchange, rest []string) error {
	path, err := pathOf(rest)
	if err != nil {
		return err
	}
	read := x.r.Method == http.MethodGet || x.r.Method == http.MethodHead
	switch {
	case !read:
		return x.entry(path)
	case path == "nix-cache-info":
		return x.nixInfo()
	case strings.HasSuffix(path, ".narinfo"):
		return x.narinfo(path)
	}
	return x.get(path, "application/x-nix-nar")
}

// nixInfo answers without the store, if need be: else Nix calls the whole cache unusable.
func (x *exchange) nixInfo() error {
	o, err := x.lookUp("nix-cache-info")
	if err != nil {
		if x.r.Context().Err() != nil {
			return err
		}
		x.w.Header().Set("Content-Type", "text/x-nix-cache-info")
		whole(x.w, []byte(nixInfo))
		return nil
	}
	defer o.Close()
	x.w.Header().Set("Content-Type", "text/x-nix-cache-info")
	return serve(x.w, x.r, o.digest, &content{ReadSeeker: o})
}

// narinfo answers GET and HEAD of a .narinfo with a lease of the archive that it names.
func (x *exchange) narinfo(path string) error {
	o, err := x.lookUp(path)
	if err != nil {
		return err
	}
	defer o.Close()
	if o.digest.Size > maxNarinfo {
		return refusal.New(http.StatusNotFound, "%s is too large for what it should be", path)
	}
	text, err := io.ReadAll(o)
	if err != nil {
		return err
	}
	if archive, ours := narPath(text); ours && !mutant.NarinfoAlone {
		_, err = await(x.r.Context(), x.handler, x.patience, func(ctx context.Context) (*entry, error) {
			return x.find(ctx, x.space, archive)
		}, func(*entry) {})
		if errors.Is(err, blob.ErrNotFound) {
			return refusal.New(http.StatusNotFound, "the archive that %s names is not here", path)
		}
		if err != nil {
			return err
		}
	}
	x.w.Header().Set("Content-Type", "text/x-nix-narinfo")
	return serve(x.w, x.r, o.digest, &content{ReadSeeker: bytes.NewReader(text)})
}

// narPath returns the path at which a .narinfo says that the archive is. ours is false if it is at another server.
func narPath(text []byte) (path string, ours bool) {
	for line := range strings.Lines(string(text)) {
		if text, ok := strings.CutPrefix(line, "URL: "); ok {
			u, err := url.Parse(strings.TrimSpace(text))
			if err != nil {
				return "", true
			}
			return strings.Join(split(u.Path), "/"), !u.IsAbs()
		}
	}
	return "", true
}
