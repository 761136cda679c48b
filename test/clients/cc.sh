#!/bin/sh
# sarsen cc compiles zstd's library with gcc 16: by `CC='sarsen cc gcc'` and by a link named gcc, first all misses, then
# all direct hits; in a second folder all hits come from a Sarsen server. Then the server is stopped, killed in the middle,
# full, gone, failing and slow, the daemon killed and stopped, the disk full: each time objects and dependency files are byte for byte
# those that gcc alone writes. Usage: SARSEN=/path/to/sarsen cc.sh
. "$(dirname "$0")/lib.sh"

root=${SARSEN_TEST_ROOT:-$("$here/sidroot.sh")}
export SARSEN_TEST_ROOT="$root"
need mkfs.ext4 e2fsprogs
alone "$@"
mount -t proc proc "$root/proc"
scratch "$root/tmp"
. "$here/trouble.lib.sh"
. "$here/cc.lib.sh"
programs
cp -a "$root/src/zstd/lib" "$work/lib"

# What a build is, beside what cc.lib.sh has: how the compiler is called, which part of the library, and a salt that changes
# every compile and no object.
folder=lib compiler='sarsen cc gcc' part=all salt=0 speed=-j2

# compiled WHAT makes the library from nothing.
compiled() {
	# A daemon that was stopped, and goes on, takes back what it wrote beside the outputs.
	rm -rf "$work/lib/obj" "$work/lib/libzstd.a" || { sleep 2 && rm -rf "$work/lib/obj" "$work/lib/libzstd.a"; }
	set -- "$1" make -s "$speed" libzstd.a BUILD_DIR=obj "CC=$compiler" "CFLAGS=-O0 -g -DSALT=$salt"
	[ "$part" = all ] || set -- "$@" ZSTD_LIB_COMPRESSION=0 ZSTD_LIB_DICTBUILDER=0 ZSTD_LIB_DEPRECATED=0 ZSTD_LEGACY_SUPPORT=0
	what=$1
	shift
	configured "$@" >"$work/log" 2>&1 || {
		cat "$work/log" >&2
		fail "$what: the build failed"
	}
}

# rebuilt WHAT does so and compares what came of it with what gcc alone wrote. A daemon that was killed between writing an
# output and its rename leaves the hidden file, as docs/cc.md says.
rebuilt() {
	compiled "$1"
	rm "$work/lib/obj/static/libzstd.a"
	diff -rq --exclude='.sarsen-cc-*' "$work/plain-$part" "$work/lib/obj/static" >&2 || fail "$1: the build wrote something else than gcc alone"
}

# counted WHAT runs rebuilt with statistics that begin at zero, and sets hits, misses and fetched.
counted() {
	zero
	rebuilt "$1"
	stats
	hits=$(count hit direct) misses=$(count miss) fetched=$(count remote fetched)
}

# wanted WHAT HITS MISSES FETCHED runs counted and wants those.
wanted() {
	counted "$1"
	[ "$hits $misses $fetched" = "$2 $3 $4" ] || {
		cat "$work/stats" >&2
		fail "$1: got $hits direct hits, $misses misses and $fetched entries from the server, want $2, $3 and $4"
	}
	say "$1: $hits direct hits, $misses misses, $fetched entries from the server"
}

# wanted_again WHAT runs rebuilt, which finds some of what it needs, and then wants all.
wanted_again() {
	rebuilt "$1"
	wanted "$1, again" "$some" 0 0
}

# running prints the processes that are daemons of sarsen cc.
running() {
	for process in /proc/[0-9]*; do
		case $({ tr '\0' ' ' <"$process/cmdline"; } 2>/dev/null) in
		*"sarsen cc --daemon"*) basename "$process" ;;
		esac
	done
}

# daemons does so when there is one.
daemons() {
	tries=0
	until found=$(running) && [ -n "$found" ]; do
		tries=$((tries + 1))
		[ $tries -lt 100 ] || fail "there is no daemon"
		sleep 0.05
	done
	echo "$found"
}

# underway WHAT starts rebuilt and returns when it has written an object or two.
underway() {
	rm -rf "$work/lib/obj"
	rebuilt "$1" &
	building=$!
	tries=0
	until [ "$(find "$work/lib/obj" -name '*.o' 2>/dev/null | wc -l)" -ge 2 ]; do
		kill -0 $building 2>/dev/null || fail "$1: the build ended before it wrote anything"
		tries=$((tries + 1))
		[ $tries -lt 3000 ] || fail "$1: the build writes nothing"
		sleep 0.01
	done
}

compiler=gcc
for part in some all; do
	compiled "gcc alone"
	rm "$work/lib/obj/static/libzstd.a"
	cp -a "$work/lib/obj/static" "$work/plain-$part"
done
all=$(find "$work/plain-all" -name '*.o' | wc -l) some=$(find "$work/plain-some" -name '*.o' | wc -l)
if [ "$all" -lt 30 ] || [ "$some" -lt 10 ]; then
	fail "gcc alone: got $all and $some objects, want 30 and 10 at least"
fi

compiler='sarsen cc gcc'
wanted "CC='sarsen cc gcc', first build" 0 "$all" 0
wanted "CC='sarsen cc gcc', second build" "$all" 0 0
path=/tmp/links:/tmp/bin:/usr/bin:/bin compiler=gcc part=some salt=1
wanted "a link named gcc, first build" 0 "$some" 0
wanted "a link named gcc, second build" "$some" 0 0
path=/tmp/bin:/usr/bin:/bin compiler='sarsen cc gcc'
echo 'int main(void) { return nothing; }' >"$work/lib/wrong.c"
for try in first second; do
	status=0
	configured sarsen cc gcc -c wrong.c -o wrong.o >"$work/log" 2>&1 || status=$?
	[ $status = 1 ] || fail "a compile that fails, $try time: got status $status, want 1"
	want "'nothing' undeclared" "$work/log" "a compile that fails, $try time"
	[ ! -e "$work/lib/wrong.o" ] || fail "a compile that fails, $try time, left an object"
done
say "a compile that fails does so each time"

# The server.
restart --worker-slots 0
another uploader
remote=grpc://$grpc salt=2
wanted "with a server" 0 "$some" 0
configured sarsen cc --wait
another second
wanted "a second folder" "$some" 0 "$some"
wanted "a second folder, second build" "$some" 0 0
stop_sarsen
start_sarsen --worker-slots 0
another third
wanted "after the server's restart" "$some" 0 "$some"

another fourth
speed=-j1
underway "server stopped in the middle"
kill -STOP "$sarsen"
wait $building || fail "server stopped in the middle"
say "server stopped in the middle: builds"
speed=-j2
another fifth
salt=3
counted "server stopped"
[ "$misses" = "$some" ] || fail "server stopped: got $misses misses, want $some"
say "server stopped: builds, $misses misses"
kill -CONT "$sarsen"
another sixth
salt=4
underway "server killed in the middle"
crash "$sarsen" 2>/dev/null
wait $building || fail "server killed in the middle"
say "server killed in the middle: builds"
wanted "no server, what is here" "$some" 0 0
another seventh
wanted "no server" 0 "$some" 0
restart --worker-slots 0 --max-size 80MB --lease 1h
fill
another eighth
wanted "server full" 0 "$some" 0
configured sarsen cc --wait
wanted "server full, second build" "$some" 0 0
refused=$(metric sarsen_store_refused_writes_total)
[ "${refused:-0}" -gt 0 ] || fail "server full: it refused nothing"
stop_sarsen

# build SALT is what trouble.lib.sh calls: nothing is left here of any build before.
build() {
	another "for-$1"
	salt=$(echo "$1" | cksum | cut -d ' ' -f 1)
	counted "$1"
	configured sarsen cc --wait
}
when_failing
when_slow
remote=''

# The daemon.
another ninth
salt=5
underway "daemon killed"
kill -KILL $(daemons)
wait $building || fail "daemon killed in the middle"
wanted_again "after the daemon was killed in the middle"
(while sleep 0.1; do for pid in $(running); do kill -KILL "$pid"; done; done) 2>/dev/null &
killer=$!
salt=6
rebuilt "daemon killed all the time"
salt=5
rebuilt "daemon killed all the time, among hits"
kill $killer
wanted_again "after the daemon was killed all the time"
salt=7 patience=
underway "daemon stopped"
stopped=$(daemons)
kill -STOP $stopped
wait $building || fail "daemon stopped in the middle"
salt=5
rebuilt "daemon stopped, entries that are there"
say "daemon stopped: builds"
kill -CONT $stopped
salt=7 patience=20s
wanted_again "after the daemon was stopped in the middle"

# The disk.
another disk
mkdir -p "$work/disk"
mount -t tmpfs -o size=80m tmpfs "$work/disk"
wanted "a small disk" 0 "$some" 0
dd if=/dev/zero of="$work/disk/ballast" bs=64k 2>/dev/null || true # until the disk is full
salt=8 patience=
rebuilt "the disk is full"
configured sarsen cc --stats --json >"$work/stats"
say "the disk is full: builds, $(count stored entries) entries stored, $(count not_stored) not"
configured sarsen cc --stop || true
salt=9
rebuilt "the disk is full, another daemon"
configured sarsen cc --stop || true
find "$work/disk" -mindepth 1 ! -name ballast -delete
dd if=/dev/zero of="$work/disk/pebbles" bs=1k 2>/dev/null || true
rebuilt "the disk is full and has no cache"
say "the disk is full: builds, without a cache too"
cc=bin/sarsen
rebuilt "a folder that is a file"
say "a folder that is a file: builds"
say "PASS"
