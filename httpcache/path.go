package httpcache

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

// A route is what kind of thing a path names. It is a label of the metrics too.
type route string

const (
	routeCAS     route = "cas"
	routeAC      route = "ac"
	routeHealthz route = "healthz"
	routeMetrics route = "metrics"
	routeStatus  route = "status"
	routeFsck    route = "fsck"
	routeGC      route = "gc"
	routeOther   route = "other" // not served

	routeGradle  route = "gradle"
	routeNx      route = "nx"
	routeTurbo   route = "turbo"
	routeCcache  route = "ccache"
	routeSccache route = "sccache"
	routeMaven   route = "maven"
	routeMetro   route = "metro"
	routeNix     route = "nix"
	routeKura    route = "kura"

	routeRestic route = "restic"
	routeCasync route = "casync"
)

// routes lists all routes, for a reader who asked for something else.
const routes = `no such path. Served are:
  GET HEAD PUT  [/INSTANCE]/cas/HASH     a blob; HASH is its SHA-256 in 64 lower-case hexadecimal digits
  GET HEAD PUT  [/INSTANCE]/ac/HASH      an action result, protobuf or JSON by content type
                .../cas/blake3/HASH, .../ac/blake3/HASH   the same by BLAKE3
  /DIALECT/NAMESPACE/...                 the caches of gradle, nx, turbo, ccache, sccache, maven, metro and nix
  /api/cache/..., /v1/cache/HASH, /api/metro/cache/KEY   as Kura has them
  /restic/REPOSITORY/, /casync/STORE/    backups
  GET           /healthz
  GET           /metrics                 for Prometheus
  GET           /status                  JSON
  POST          /fsck                    verifies every stored byte; JSON lines`

// maxInstance bounds the instance name, in bytes: it becomes part of every result's record.
const maxInstance = 1024

// A name is what a path says. For a route that is not Bazel's only the route is set.
type name struct {
	route    route
	instance string        // without slashes at its ends; may have some inside
	digest   digest.Digest // of AnySize: no path carries a size

	dialect *dialect // or nil
	space   space
	rest    string // the path below the namespace
}

// parsePath reads a decoded path. Empty segments are skipped, since base URLs often end in a slash.
// The name's route is valid even if there is an error.
func parsePath(path string) (name, error) {
	segments := split(path)
	n := len(segments)
	if d, ok := dialectName(segments); ok {
		return d, d.space.check()
	}
	switch {
	case n >= 1 && isBackup(route(segments[0])):
		return name{route: route(segments[0])}, nil
	case n == 1 && isService(route(segments[0])):
		return name{route: route(segments[0])}, nil
	case n >= 2 && isBazel(route(segments[n-2])):
		return bazelName(segments[:n-2], route(segments[n-2]), digest.SHA256.String(), segments[n-1])
	case n >= 3 && isBazel(route(segments[n-3])):
		return bazelName(segments[:n-3], route(segments[n-3]), segments[n-2], segments[n-1])
	}
	return name{route: routeOther}, refusal.New(http.StatusNotFound, routes)
}

func split(path string) []string {
	return strings.FieldsFunc(path, func(c rune) bool { return c == '/' })
}

// dialectName reads the path of a dialect: those with a namespace in it, and Kura's.
func dialectName(segments []string) (name, bool) {
	is := func(want ...string) bool {
		return len(segments) >= len(want) && slices.Equal(segments[:len(want)], want)
	}
	named := func(r route, namespace string, rest []string) (name, bool) {
		return name{route: r, dialect: dialects[r], space: space{r, namespace}, rest: strings.Join(rest, "/")}, true
	}
	switch {
	case is("api", "cache"):
		return named(routeKura, "", segments[2:]) // the query has the namespace
	case is("v1", "cache"):
		return named(routeNx, "nx", segments)
	case is("api", "metro", "cache"):
		return named(routeMetro, "metro", segments[3:])
	case len(segments) >= 2 && route(segments[0]) != routeKura && dialects[route(segments[0])] != nil:
		return named(route(segments[0]), segments[1], segments[2:])
	}
	return name{}, false
}

// check refuses namespaces that are none.
func (s space) check() error {
	if n := s.namespace; n == "." || n == ".." || len(n) > maxInstance/2 || !utf8.ValidString(n) {
		return refusal.New(http.StatusBadRequest, "the namespace must be UTF-8 of at most %d bytes", maxInstance/2)
	}
	return nil
}

func bazelName(instance []string, r route, function, hash string) (name, error) {
	n := name{route: r, instance: strings.Join(instance, "/")}
	if len(n.instance) > maxInstance || !utf8.ValidString(n.instance) {
		return n, refusal.New(http.StatusBadRequest, "the instance name must be UTF-8 of at most %d bytes", maxInstance)
	}
	f, ok := digest.FunctionNamed(function)
	if !ok {
		return n, refusal.New(http.StatusBadRequest, "%.40q is not a digest function that is served: want /%s/HASH or /%s/blake3/HASH", function, r, r)
	}
	d, err := digest.New(f, hash, digest.AnySize)
	if err != nil {
		return n, fmt.Errorf("%w: want /%s/HASH or /%s/blake3/HASH", err, r, r)
	}
	n.digest = d
	return n, nil
}

// String returns the one canonical path of n.
func (n name) String() string {
	switch {
	case n.route == routeKura:
		return strings.TrimSuffix("/api/cache/"+n.rest, "/")
	case n.dialect != nil:
		return strings.TrimSuffix("/"+n.space.instance()+"/"+n.rest, "/")
	case !n.isBazel():
		return "/" + string(n.route)
	}
	path := "/" + string(n.route) + "/" + n.digest.String()
	if n.instance != "" {
		path = "/" + n.instance + path
	}
	return path
}

func (n name) isBazel() bool { return isBazel(n.route) }

func isBazel(r route) bool { return r == routeCAS || r == routeAC }

func isService(r route) bool {
	return r == routeHealthz || r == routeMetrics || r == routeStatus || r == routeFsck || r == routeGC
}

func isBackup(r route) bool { return r == routeRestic || r == routeCasync }
