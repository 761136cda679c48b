#!/bin/sh
# ccache 4.14 compiles a program of many files with Sarsen as its remote storage, in each of its layouts: what one process
# made another finds, without a cache of its own, and over the other layouts too. Then the server is full, failing, slow
# and gone: each time the program is built. Then the same with the ccache of the system that this runs on. Usage: SARSEN=/path/to/sarsen ccache.sh
. "$(dirname "$0")/lib.sh"

root=${SARSEN_TEST_ROOT:-$("$here/sidroot.sh")}
export SARSEN_TEST_ROOT="$root"
need mkfs.ext4 e2fsprogs
need ccache ccache
need gcc gcc
alone "$@"
mount -t proc proc "$root/proc"
scratch "$root/tmp"
. "$here/trouble.lib.sh"
. "$here/compile.lib.sh"

dialect=ccache
storage="http://$http/ccache/team layout=subdirs"

# build SALT compiles all files with a ccache that has nothing, and counts what came from Sarsen.
build() {
	rm -rf "$work/ccache"
	sources "$1"
	compile ccache "CCACHE_DIR=/tmp/ccache" "CCACHE_REMOTE_STORAGE=$storage" CCACHE_NOINODECACHE=true
	inside env CCACHE_DIR=/tmp/ccache ccache --print-stats >"$work/stats"
	hits=$(awk '$1 == "direct_cache_hit" || $1 == "preprocessed_cache_hit" { n += $2 } END { print n + 0 }' "$work/stats")
	misses=$(awk '$1 == "cache_miss" { print $2 }' "$work/stats")
}

start_sarsen
hits_all subdirs
storage="http://$http/ccache/team layout=flat"
build subdirs
[ "$hits" = $files ] || fail "flat after subdirs: got $hits hits, want $files"
hits_all flat
storage="http://$http/ccache/team layout=bazel"
build subdirs
[ "$hits" = $files ] || fail "bazel after subdirs: got $hits hits, want $files"
hits_all bazel
storage="http://user:secret-~%3F@$http/ccache/team layout=flat"
hits_all basic
storage="http://$http/ccache/team @bearer-token=secret"
hits_all bearer
storage="http://$http/ccache/other"
build bearer
[ "$hits" = 0 ] || fail "another namespace: got $hits hits, want 0"
curl -sSf -X DELETE "http://$http/ccache/other/"
build bearer
[ "$hits" = 0 ] || fail "a cleaned namespace: got $hits hits, want 0"
stop_sarsen
start_sarsen
build bearer
[ "$hits" = $files ] || fail "after a restart: got $hits hits, want $files"
say "after a restart: $hits hits"
stop_sarsen

in_trouble

# A server that hangs is the worst: ccache waits for it, 10 s a process, and then does without.
restart
kill -STOP "$sarsen"
storage="http://$http/ccache/team operation-timeout=200 connect-timeout=100"
began=$(date +%s)
build stopped
took=$(($(date +%s) - began))
[ $took -lt $((files / 2 * 10)) ] || fail "stopped: the build took $took s, as if each process waited for 10 s"
kill -CONT "$sarsen"
say "stopped: builds, with short timeouts"
stop_sarsen

# The same with the ccache of the system that this runs on.
root=$cache/here
mkdir -p "$root"
mount --bind / "$root"
mount --bind "$work" "$root/tmp"
mount --bind /dev "$root/dev"
mount -t proc proc "$root/proc"
storage="http://$http/ccache/team|layout=subdirs" # before 4.13 there are no spaces
say "$(inside ccache --version | head -n 1)"
start_sarsen
hits_all here
storage="http://$http/ccache/team|layout=bazel"
build here
[ "$hits" = $files ] || fail "here, bazel after subdirs: got $hits hits, want $files"
storage="http://$http/ccache/team"
stop_sarsen
in_trouble
say "PASS"
