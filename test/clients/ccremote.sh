#!/bin/sh
# `sarsen cc --remote gcc` compiles zstd's library on a worker whose machine has no compiler: its root holds nothing but
# sarsen. All objects and dependency files are byte for byte those that gcc alone writes here, and what the server compiled
# is a hit afterwards. Then the worker is killed in the middle, the server is killed in the middle, there is no worker, and
# only one that runs its own compiler: it builds each time. Usage: SARSEN=/path/to/sarsen ccremote.sh
. "$(dirname "$0")/lib.sh"

root=${SARSEN_TEST_ROOT:-$("$here/sidroot.sh")}
export SARSEN_TEST_ROOT="$root"
alone "$@"
mount -t proc proc "$root/proc"
scratch "$root/tmp"

mkdir "$work/bin" "$work/place"
cp "$SARSEN" "$work/bin/sarsen"
cp -a "$root/src/zstd/lib" "$work/place/lib"
mount --bind "$work/place" "$root/mnt" # in /tmp every worker has something of its own

cc=first compiler='sarsen cc --remote gcc' salt=0 speed=-j8 queue=10m execute=

# configured COMMAND... runs it in the library with the settings above.
configured() {
	timeout -k 5 300 chroot "$root" /usr/bin/env -i --chdir=/mnt/lib PATH=/tmp/bin:/usr/bin:/bin HOME=/tmp/home LC_ALL=C \
		"SARSEN_CC_DIR=/tmp/$cc" "SARSEN_CC_REMOTE=grpc://$grpc" SARSEN_CC_PATIENCE=20s "SARSEN_CC_REMOTE_QUEUE=$queue" \
		${execute:+SARSEN_CC_REMOTE_EXECUTE=$execute} "$@"
}

# compiled WHAT makes a part of the library from nothing.
compiled() {
	rm -rf "$work/place/lib/obj" "$work/place/lib/libzstd.a"
	configured make -s "$speed" libzstd.a BUILD_DIR=obj "CC=$compiler" "CFLAGS=-O0 -g -DSALT=$salt" \
		ZSTD_LIB_DICTBUILDER=0 ZSTD_LIB_DEPRECATED=0 ZSTD_LEGACY_SUPPORT=0 >"$work/log" 2>&1 || {
		cat "$work/log" >&2
		fail "$1: the build failed"
	}
	rm "$work/place/lib/obj/static/libzstd.a"
}

# build WHAT does so and compares what came of it with what gcc alone wrote.
build() {
	compiled "$1"
	diff -rq --exclude='.sarsen-cc-*' "$work/plain" "$work/place/lib/obj/static" >&2 || fail "$1: the build wrote something else than gcc alone"
}

# count GROUP [NAME] prints what the statistics have in a group, or under a name of it.
count() {
	awk -v group="\"$1\":" -v name="${2:+\"$2\":}" \
		'$2 ~ /^{/ { inside = $1 == group; next } inside && (name == "" || $1 == name) { n += $2 } END { print n + 0 }' "$work/stats"
}

# statistics WHAT sets hits, there, here and fetched: direct hits, misses that the server compiled and did not, and
# entries from its cache.
statistics() {
	configured sarsen cc --stats --json >"$work/stats" || fail "$1: no statistics"
	hits=$(count hit direct) there=$(count executed) here=$(count not_executed) fetched=$(count remote fetched)
	say "$1: $hits direct hits, $there compiled by the server, $here by gcc here, $fetched entries from the server's cache"
}

# wanted WHAT HITS THERE HERE builds with statistics that begin at zero, and wants those.
wanted() {
	configured sarsen cc --zero || fail "$1: the statistics can't be set to zero"
	build "$1"
	statistics "$1"
	[ "$hits $there $here" = "$2 $3 $4" ] || {
		cat "$work/stats" "$work/$cc/daemon.log" >&2
		fail "$1: want $2 direct hits, $3 compiled by the server and $4 here"
	}
}

# fresh ends the daemon and begins a folder that is empty.
fresh() {
	configured sarsen cc --stop || fail "the daemon does not stop"
	rm -rf "${work:?}/$cc"
	cc=$1
}

# start_bare_worker NAME starts a worker in a root that has nothing but sarsen.
start_bare_worker() {
	bare="$work/bare-$1"
	mkdir -p "$bare/dev" "$bare/proc" "$bare/tmp" "$bare/etc"
	mount --bind "$bare" "$bare"
	mount --rbind /dev "$bare/dev"
	mount -t proc proc "$bare/proc"
	cp "$SARSEN" "$bare/sarsen"
	cp "$root/usr/bin/busybox" "$bare/busybox" # until the other root is gone
	: >"$work/$1.out"
	# shellcheck disable=SC2016 # the inner shell expands it
	unshare --mount --propagation private /bin/sh -euc \
		'cd "$0"; pivot_root . .; exec /busybox sh -euc "/busybox umount -l .; /busybox rm /busybox; exec \"\$@\"" sh "$@"' "$bare" \
		/sarsen worker --scheduler $grpc --dir /files --name "$1" --slots 2 --chroot \
		>"$work/$1.out" 2>>"$work/worker-$1.log" &
	worker=$!
	ready $worker "$work/$1.out" "sarsen worker"
}

# underway WHAT starts build and returns when the server has compiled something.
underway() {
	configured sarsen cc --zero || fail "$1: the statistics can't be set to zero"
	build "$1" &
	building=$!
	tries=0
	until configured sarsen cc --stats --json >"$work/stats" && [ "$(count executed)" -ge 2 ]; do
		kill -0 $building 2>/dev/null || fail "$1: the build ended before the server compiled anything"
		tries=$((tries + 1))
		[ $tries -lt 600 ] || fail "$1: the server compiles nothing"
		sleep 0.05
	done
}

real=$compiler compiler=gcc
compiled "gcc alone"
cp -a "$work/place/lib/obj/static" "$work/plain"
compiler=$real
all=$(find "$work/plain" -name '*.o' | wc -l)
[ "$all" -ge 15 ] || fail "gcc alone: got $all objects, want 15 at least"

start_server
start_bare_worker one
wanted "a worker without a compiler, first build" 0 "$all" 0
wanted "second build" "$all" 0 0
configured sarsen cc --explain common/debug.c >"$work/log"
want 'compiled by the server' "$work/log" "sarsen cc --explain"
configured sarsen cc --wait
fresh second
wanted "a second folder" "$all" 0 0
[ "$fetched" = "$all" ] || fail "a second folder: got $fetched entries from the server, want $all"

salt=1 queue=2s
fresh third
underway "the worker is killed in the middle"
crash $worker 2>/dev/null
wait $building || fail "the worker is killed in the middle"
statistics "the worker is killed in the middle"
if [ "$here" = 0 ] || [ "$there" = 0 ]; then fail "the worker is killed in the middle: want some compiled here and some there"; fi

salt=2
fresh fourth
wanted "no worker" 0 0 "$all"

# The Debian root's own worker has that very gcc, and would not see the inputs. Nothing may come of it.
salt=3
stop_sarsen
start_server
start_worker own
fresh fifth
wanted "a worker with a compiler of its own" 0 0 "$all"
[ "$(count not_executed compile_failed)" -ge 1 ] || fail "a worker with a compiler of its own: it was never tried"
stop "$worker" "the worker"

salt=4
start_bare_worker two
fresh sixth
underway "the server is killed in the middle"
crash "$sarsen" 2>/dev/null
wait $building || fail "the server is killed in the middle"
statistics "the server is killed in the middle"
[ "$here" -gt 0 ] || fail "the server is killed in the middle: want some compiled here"
crash $worker 2>/dev/null

salt=5 compiler='sarsen cc gcc'
configured sarsen cc --stop
rm -rf "$work/data"
start_sarsen --chroot
fresh seventh
mkdir "$work/seventh"
printf 'remote_execute: true\nremote_queue: 10m\n' >"$work/seventh/config.yaml"
queue=10m
wanted "sarsen up --chroot, by config.yaml" 0 "$all" 0
execute=0 salt=6
wanted "SARSEN_CC_REMOTE_EXECUTE=0" 0 0 0
configured sarsen cc --stop
stop_sarsen
say "PASS"
