#!/bin/sh
# BuildStream 2.8 with Sarsen as its artifact and source server: what one machine built, another one, with
# nothing in its cache, pulls and checks out. Usage: SARSEN=/path/to/sarsen buildstream.sh
. "$(dirname "$0")/lib.sh"

root=${SARSEN_TEST_ROOT:-$("$here/sidroot.sh")}
export SARSEN_TEST_ROOT="$root"
alone "$@"
mount -t proc proc "$root/proc"
scratch "$root/tmp"
. "$here/buildstream/buildstream.lib.sh"

# make_project has one of everything that an artifact can hold.
make_project() {
	mkdir -p "$work/bst/elements" "$work/bst/files/nested/deep" "$work/bst/files/empty"
	printf 'name: test\nmin-version: "2.0"\nelement-path: elements\n' >"$work/bst/project.conf"
	cat >"$work/bst/elements/files.bst" <<-END
		kind: import
		sources:
		- kind: local
		  path: files
	END
	cat >"$work/bst/elements/composed.bst" <<-END
		kind: compose
		build-depends:
		- files.bst
	END
	cd "$work/bst/files"
	echo hello >nested/deep/hello
	: >empty-file
	printf '#!/bin/sh\necho run\n' >program
	chmod 755 program
	head -c 9000000 /dev/urandom >nested/nine-megabytes
	ln -s nested/deep/hello link
	ln -s nowhere dangling
	for i in $(seq 100); do echo "file $i" >"nested/$i"; done
	cd "$work"
}

# checkout NAME compares what is in the artifact with what it was made of.
checkout() {
	bst artifact checkout --directory "/tmp/$1" composed.bst
	diff -r --no-dereference "$work/bst/files" "$work/$1" >&2 || fail "$1: built from (<) and checked out (>) differ"
	[ -x "$work/$1/program" ] || fail "$1: program is not executable"
	[ ! -x "$work/$1/empty-file" ] || fail "$1: empty-file is executable"
}

start_sarsen
make_project
configure "artifacts source-caches"

bst artifact pull composed.bst
unwanted 'Pulled artifact' "pull from an empty server"
bst build composed.bst
wanted 'Pushed artifact' "build"
checkout built
for method in Push/PushBlob Push/PushDirectory; do
	calls=$(metric "sarsen_grpc_requests_total{code=\"OK\",method=\"$method\"}")
	[ "${calls:-0}" -gt 0 ] || fail "build: got no $method that was OK"
done
bst artifact push composed.bst
wanted 'already has artifact' "push of what is there"
say "built and pushed"

rm -rf "$work/bstcache"
stop_sarsen
start_sarsen
bst artifact pull composed.bst
wanted 'Pulled artifact' "pull after everything was wiped and sarsen restarted"
checkout pulled
say "pulled and checked out"

# The sources too, which the build has pushed.
rm -rf "$work/bstcache" "$work/home"
mkdir "$work/home"
bst source fetch files.bst
wanted 'Pulled source' "source fetch after everything was wiped"
say "sources pulled"

# An artifact that was pushed is there whole or not at all.
stop_sarsen
rm -rf "$work/data" "$work/bstcache"
start_sarsen
bst artifact pull composed.bst
unwanted 'Pulled artifact' "pull after the server lost everything"
bst build composed.bst
wanted 'Pushed artifact' "build after the server lost everything"
checkout again
say "built again"

stop_sarsen
say "PASS"
