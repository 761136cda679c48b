#!/bin/sh
# sarsen cc builds two real projects. Lua, with make -j2 and clang; zstd with CMake and Ninja, library and programs,
# the compiler's launcher being 'sarsen;cc'. First all misses, then all hits and nothing passed through but links, in another
# folder too, and from a server with an empty cache here. Objects are those of the compiler alone, and the programs run.
# Usage: SARSEN=/path/to/sarsen projects.sh
. "$(dirname "$0")/lib.sh"

root=${SARSEN_TEST_ROOT:-$("$here/sidroot.sh")}
export SARSEN_TEST_ROOT="$root"
alone "$@"
mount -t proc proc "$root/proc"
scratch "$root/tmp"
. "$here/cc.lib.sh"
programs

# objects FOLDER lists the objects below it with their digests.
objects() { (cd "$work/$1" && find . -name '*.o' -exec sha256sum {} + | sort -k 2); }

# built FOLDER COUNTS COMMAND... builds there with statistics that begin at zero, and wants these counts, and the objects that
# the compiler alone made.
built() {
	folder=$1 counts=$2
	shift 2
	zero
	configured "$@" >"$work/log" 2>&1 || {
		tail -n 40 "$work/log" >&2
		fail "$*: the build failed"
	}
	stats
	[ "$(tally)" = "$counts" ] || fail "$*: got $(tally), want $counts"
	objects "$folder" >"$work/objects"
	diff "$work/alone" "$work/objects" >&2 || fail "$*: the compiler alone (<) makes other objects (>)"
	say "$*: $counts"
}

# Lua.
cp -a "$root/src/lua" "$work/lua"
folder=lua
configured make -s -j2 CC=clang linux >"$work/log" 2>&1 || fail "Lua with clang alone: $(tail -n 20 "$work/log")"
objects lua >"$work/alone"
n=$(wc -l <"$work/alone")
[ "$n" -gt 30 ] || fail "Lua: got $n objects, want more than 30"
for counts in "miss.new=$n pass.link=2" "hit.direct=$n pass.link=2"; do
	configured make -s clean
	built lua "$counts" make -s -j2 'CC=sarsen cc clang' linux
done
got=$(inside /tmp/lua/src/lua -e 'print(_VERSION, 6 * 7)')
[ "$got" = "Lua 5.4	42" ] || fail "Lua says '$got'"

# zstd.
cp -a "$root/src/zstd" "$work/zstd"
# configure FOLDER OPTIONS... has CMake prepare a build there.
configure() {
	folder=$1
	shift
	mkdir -p "$work/$folder"
	configured cmake -G Ninja -S /tmp/zstd/build/cmake -B . -DCMAKE_BUILD_TYPE=None '-DCMAKE_C_FLAGS=-O0 -fmacro-prefix-map=/tmp/=../' -DZSTD_BUILD_SHARED=OFF -DZSTD_LEGACY_SUPPORT=OFF "$@" >"$work/log" 2>&1 ||
		fail "CMake: $(tail -n 20 "$work/log")"
}
# CMake knows no launcher for assembly.
launcher='-DCMAKE_C_COMPILER_LAUNCHER=sarsen;cc -DCMAKE_CXX_COMPILER_LAUNCHER=sarsen;cc'
configure plain
configured ninja -j2 >"$work/log" 2>&1 || fail "zstd with gcc alone: $(tail -n 20 "$work/log")"
objects plain >"$work/alone"
start_sarsen --worker-slots 0
another cold
# Each build names its own folder in an -I. What asserts say of a file is its relative name, by the prefix map.
base=/tmp
remote=grpc://$grpc
for folder in first again; do
	# shellcheck disable=SC2086 # the options are to be split
	configure $folder $launcher
done
configured /tmp/bin/sarsen cc --clear
n=$(configured ninja -t commands | grep -c 'sarsen cc .* -c ')
[ "$n" -gt 30 ] || fail "zstd: CMake runs $n compiles by sarsen cc, want more than 30"
built first "miss.new=$n" ninja -j2
configured ninja -t clean >"$work/log"
built first "hit.direct=$n" ninja -j2
built again "hit.direct=$n" ninja -j2
configured /tmp/bin/sarsen cc --wait
another empty
configured ninja -t clean >"$work/log"
built again "hit.direct=$n remote.fetched=$n" ninja -j2
inside /tmp/again/programs/zstd --version | grep -q Zstandard || fail "the program that came from the server does not run"
stop_sarsen
say "PASS"
