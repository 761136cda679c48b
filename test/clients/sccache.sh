#!/bin/sh
# sccache 0.17 compiles a program of many files with Sarsen as its WebDAV storage: what one server of its made another
# finds. Then Sarsen is full, failing, slow and gone in the middle: each time sccache starts, and the program is built.
# Without a server sccache itself does not start, and the build does without it. Usage: SARSEN=/path/to/sarsen sccache.sh
. "$(dirname "$0")/lib.sh"

root=${SARSEN_TEST_ROOT:-$("$here/sidroot.sh")}
export SARSEN_TEST_ROOT="$root"
need mkfs.ext4 e2fsprogs
alone "$@"
mount -t proc proc "$root/proc"
scratch "$root/tmp"
. "$here/trouble.lib.sh"
. "$here/compile.lib.sh"

dialect=sccache
endpoint=http://$http/sccache/team
login=SCCACHE_WEBDAV_USERNAME=

sccache() {
	inside env SCCACHE_WEBDAV_ENDPOINT="$endpoint" SCCACHE_WEBDAV_KEY_PREFIX=prefix "$login" \
		SCCACHE_SERVER_UDS=/tmp/sccache.sock SCCACHE_IGNORE_SERVER_IO_ERROR=1 sccache "$@"
}

# build SALT compiles all files with a new server of sccache, and counts what came from Sarsen.
build() {
	sources "$1"
	# What docs/clients.md has to say of a build that must not depend on the cache.
	if ! sccache --start-server >"$work/started" 2>&1; then
		[ "${away:-}" = 1 ] || fail "$1: sccache did not start: $(cat "$work/started")"
		compile ""
		return
	fi
	compile sccache SCCACHE_SERVER_UDS=/tmp/sccache.sock SCCACHE_IGNORE_SERVER_IO_ERROR=1
	# What is written after the compilation is awaited by nobody else.
	sccache --show-stats --stats-format=json >"$work/stats"
	sccache --stop-server >>"$work/log" 2>&1 || true
	hits=$(stat_of cache_hits)
	misses=$(stat_of cache_misses)
}

# stat_of NAME prints what sccache counted for C.
stat_of() { tr -d ' \n' <"$work/stats" | sed -n "s/.*\"$1\":{\"counts\":{\([^}]*\)}.*/\1/p" | sed -n 's/.*"C\/C++":\([0-9]*\).*/\1/p' | grep . || echo 0; }

start_sarsen
hits_all plain
login=SCCACHE_WEBDAV_TOKEN=secret
hits_all bearer
endpoint=http://$http/sccache/team/
build bearer
[ "$hits" = $files ] || fail "with a slash at the end: got $hits hits, want $files"
stop_sarsen
start_sarsen
build bearer
[ "$hits" = $files ] || fail "after a restart: got $hits hits, want $files"
say "after a restart: $hits hits"
stop_sarsen

when_full
when_failing
when_slow
away=1
when_gone
want 'Server startup failed' "$work/started" "gone"
say "PASS"
