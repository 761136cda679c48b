package pbs

import (
	"regexp"
	"slices"
	"strings"
	"time"
)

// Roots are named so that a listing by prefix gives what is asked for:
//
//	pbs/STORE/[ns/A/[ns/B/]]TYPE/ID/TIME    a snapshot
//	pbs/STORE/[ns/A/[ns/B/]]TYPE/ID         a group: its owner and notes
//	pbs/STORE/ns/A[/ns/B]                   a namespace
//	pbs-session/STORE/SERVER/SESSION/...    what a session holds
const (
	rootPrefix    = "pbs/"
	sessionPrefix = "pbs-session/"
)

// safeName is what a part of a name may be.
var safeName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)

// The bounds of names, which keep a root's name below what a Keeper takes.
const (
	maxName      = 128 // of a store, an ID or a file
	maxNamespace = 256
	maxDepth     = 7
)

func checkName(what, name string) error {
	if len(name) > maxName || !safeName.MatchString(name) {
		return badRequest("parameter verification failed - '%s': %q is not a name: up to %d letters, digits, '_', '.' and '-'", what, name, maxName)
	}
	return nil
}

// checkNamespace checks "" (the top), "a" or "a/b".
func checkNamespace(ns string) error {
	if ns == "" {
		return nil
	}
	parts := strings.Split(ns, "/")
	if len(ns) > maxNamespace || len(parts) > maxDepth {
		return badRequest("parameter verification failed - 'ns': at most %d levels and %d characters", maxDepth, maxNamespace)
	}
	for _, p := range parts {
		if err := checkName("ns", p); err != nil {
			return err
		}
	}
	return nil
}

// nsPath is how a namespace stands in a root's name: with a slash at its end, or empty.
func nsPath(ns string) string {
	if ns == "" {
		return ""
	}
	return "ns/" + strings.ReplaceAll(ns, "/", "/ns/") + "/"
}

// types are the kinds of backups, in the order in which they are listed.
var types = []string{"ct", "host", "vm"}

// A group is a series of snapshots of one thing.
type group struct{ ns, kind, id string }

func (g group) String() string { return g.kind + "/" + g.id }

func (g group) root(store string) string {
	return rootPrefix + store + "/" + nsPath(g.ns) + g.kind + "/" + g.id
}

func (g group) check() error {
	if err := checkNamespace(g.ns); err != nil {
		return err
	}
	if !slices.Contains(types, g.kind) {
		return badRequest("parameter verification failed - 'backup-type': %q is none of vm, ct and host", g.kind)
	}
	return checkName("backup-id", g.id)
}

// A snapshotName is the name of a snapshot: its group, and its time in seconds since 1970.
type snapshotName struct {
	group
	time int64
}

// The times whose text has four digits for the year.
const (
	minTime = 1
	maxTime = 253402300799
)

func (n snapshotName) check() error {
	if n.time < minTime || n.time > maxTime {
		return badRequest("parameter verification failed - 'backup-time': %d is out of range", n.time)
	}
	return n.group.check()
}

func (n snapshotName) stamp() string { return time.Unix(n.time, 0).UTC().Format(time.RFC3339) }

func (n snapshotName) String() string { return n.group.String() + "/" + n.stamp() }

func (n snapshotName) root(store string) string { return n.group.root(store) + "/" + n.stamp() }

// parseRoot reads the name of a root in namespace ns: a group's if time is 0, else a snapshot's.
func parseRoot(store, ns, name string) (n snapshotName, ok bool) {
	rest, ok := strings.CutPrefix(name, rootPrefix+store+"/"+nsPath(ns))
	parts := strings.Split(rest, "/")
	if !ok || len(parts) < 2 || len(parts) > 3 || !slices.Contains(types, parts[0]) {
		return n, false
	}
	n.group = group{ns, parts[0], parts[1]}
	if len(parts) == 3 {
		t, err := time.Parse(time.RFC3339, parts[2])
		if err != nil {
			return n, false
		}
		n.time = t.Unix()
	}
	return n, true
}
