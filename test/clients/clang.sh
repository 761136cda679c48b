#!/bin/sh
# sarsen cc before Debian's clang, clang++ and clang-cl. Each command is run by the compiler alone, then twice by sarsen cc,
# a miss and a direct hit: files, what is said and the exit status are the same each time. Then headers change and
# appear, links are called, arguments come from variables and UTF-16. At last the Go tests that need clang run in the
# root, where none of them may be skipped. Usage: SARSEN=/path/to/sarsen clang.sh
. "$(dirname "$0")/lib.sh"

command -v go >/dev/null || fail "go is missing"
root=${SARSEN_TEST_ROOT:-$("$here/sidroot.sh")}
export SARSEN_TEST_ROOT="$root"
repository=$(cd "$here/../.." && pwd)
(cd "$repository" && go list -deps -test ./compiler/... >/dev/null) || fail "the tests' modules can't be had"
alone "$@"
mount -t proc proc "$root/proc"
scratch "$root/tmp"
. "$here/cc.lib.sh"
programs

in=$work/project/in
mkdir -p "$in/first" "$in/second" "$work/project/out"
cat >"$in/x.c" <<-'END'
	#include "a.h"
	#include <stddef.h>
	int f(int n) { int unused; size_t s = sizeof n; return n + A + (int)s; }
END
cp "$in/x.c" "$in/x.cc"
# clang-cl has no headers of the system here.
printf '#include "a.h"\nint f(int n) { int unused; return n + A; }\n' >"$in/w.c"
printf 'int g(void) { return A; }\n' >"$in/y.c"
printf 'int h(void) { return A; }\n' >"$in/z.c"
echo '#define A 1' >"$in/second/a.h"
echo '#define FORCED 1' >"$in/forced.h"

# What clang-cl takes before and after its arguments.
cl='' after=''

# ran NAME COMMAND... runs it, and moves all that it wrote, and what it said, into a folder of that name.
ran() {
	name=$1
	shift
	status=0
	configured env "CL=$cl" "_CL_=$after" "$@" >"$work/stdout" 2>"$work/stderr" || status=$?
	echo $status >"$work/status"
	rm -rf "${work:?}/$name"
	mkdir "$work/$name"
	mv "$work/stdout" "$work/stderr" "$work/status" "$work/$name"
	find "$work/project" -mindepth 1 -maxdepth 1 ! -name in -exec mv -t "$work/$name" {} +
	mkdir "$work/project/out"
}

# through COUNTS COMMAND... runs it, wants it to do what the compiler alone did, and these counts.
through() {
	counts=$1
	shift
	zero
	ran through "$@"
	stats
	[ "$(tally)" = "$counts" ] || fail "$*: got $(tally), want $counts"
	diff -r "$work/alone" "$work/through" >&2 || fail "$*: the compiler alone (<) gives something else (>)"
}

# twice N COMMAND... runs the compiler alone, then through sarsen cc: N misses, then as many hits.
twice() {
	n=$1
	shift
	path=/usr/bin:/bin
	ran alone "$@"
	[ "$(cat "$work/alone/status")" = 0 ] || fail "$* alone: $(cat "$work/alone/stderr")"
	path=/tmp/bin:/usr/bin:/bin
	through "miss.new=$n" sarsen cc "$@"
	through "hit.direct=$n" sarsen cc "$@"
	commands=$((commands + 1))
}

# changed COUNTS COMMAND... compiles once more after something has changed.
changed() {
	counts=$1
	shift
	ran alone "$@"
	through "$counts" sarsen cc "$@"
}

# each COMPILER SOURCE runs the command lines that clang and clang++ share.
each() {
	while read -r flags; do
		# shellcheck disable=SC2086 # the line is to be split
		twice 1 "$1" $flags -Iin/first -Iin/second "in/$2" -o out/x.o
	done <<-'END'
		-c
		-c -O2 -Wall -Wextra
		-c -MD
		-c -MMD -MP -MF deps -MT target -Wall
		-c -MMD -g
		-c -g
		-c -g -gsplit-dwarf
		-c -MD -g -gsplit-dwarf -O1
		-c -g3 -gz
		-c --coverage
		-c -flto
		-c -fcolor-diagnostics -Wall
		-c --serialize-diagnostics out/x.dia
		-c -fstack-usage
		-c -std=gnu17 -x c -fPIC -march=native
		-S -O1
		-c -emit-llvm
		-c -include in/forced.h
	END
}

# headers_change COMMAND...: a header of second changes, one of first appears before it, and both are as they were; at last through a link.
headers_change() {
	changed miss.new=1 "$@"
	echo '#define A 2' >"$in/second/a.h"
	changed miss.header=1 "$@"
	echo '#define A 1' >"$in/second/a.h"
	changed hit.direct=1 "$@"
	echo '#define A 3' >"$in/first/a.h"
	changed miss.header_appears=1 "$@"
	rm "$in/first/a.h"
	changed hit.direct=1 "$@"
	path=/tmp/links:/usr/bin:/bin
	through hit.direct=1 "$@"
	path=/tmp/bin:/usr/bin:/bin
}

for mode in depend preprocess; do
	another "$mode"
	commands=0
	each clang x.c
	[ $mode = preprocess ] || each clang++ x.cc
	printf -- '-c "in/x.c" -O3 -DQUOTED=\\"a\\ b\\" -Iin/second\n' >"$in/args"
	twice 1 clang @in/args
	twice 2 clang -c -DA=1 in/y.c in/z.c
	say "clang and clang++, mode $mode: $commands commands, objects as clang alone writes them"

	set -- clang -c -g -MD -Iin/first -Iin/second in/x.c -o out/x.o
	headers_change "$@"
	say "headers change and appear, mode $mode; a link named clang"

	ran alone clang -Iin/second -E in/x.c -o out/x.i
	through pass.preprocess=1 sarsen cc clang -Iin/second -E in/x.c -o out/x.i
	ran alone clang -c in/x.c -o out/x.o
	through "miss.new=1" sarsen cc clang -c in/x.c -o out/x.o
	want "'a.h' file not found" "$work/through/stderr" "a compile that fails"
done
# A comment changes no object where no line is part of it.
set -- clang -c -Os -Iin/second in/x.c -o out/x.o
changed miss.new=1 "$@"
printf '#define A 1 // one\n' >"$in/second/a.h"
changed hit.preprocessed=1 "$@"
echo '#define A 1' >"$in/second/a.h"

another microsoft
mode=depend commands=0
# An object has the time in it unless /Brepro leaves it out.
while read -r flags; do
	# shellcheck disable=SC2086
	twice 1 clang-cl /nologo /Brepro "/DLINE=$commands" $flags /Iin/first /I in/second in/w.c
done <<-'END'
	/c
	/c /Foout/
	/c /Foout/w.obj /O2 /W4
	/c /Foout/w.obj /Z7
	/c /Foout/w.obj /showIncludes
	/c /Foout/w.obj /showIncludes /Z7 /W4 /MD
	/c /FIin/forced.h
	/c /FI in/forced.h /DX=1 /D Y /EHsc /std:c11
	/c /clang:-MMD /clang:-MFout/w.d /Foout/w.obj
	/c /TC
	/c -o out/w.obj
END
# The object's name is in the dependency file.
for object in out/ out/other.obj; do twice 1 clang-cl /nologo /Brepro /c /DA=1 /clang:-MD /clang:-MFdeps "/Fo$object" in/y.c; done
twice 3 clang-cl /nologo /Brepro /MP3 /c /DA=1 in/w.c in/y.c in/z.c /Iin/second /Foout/
twice 3 clang-cl /nologo /Brepro /MP /c /DA=1 in/w.c in/y.c in/z.c /Iin/second /Z7
{
	printf '\377\376'
	# MS quoting: a backslash quotes only before a quote.
	printf '/nologo /Brepro\r\n/c "in\\w.c" /I"in\\second" /DS="\\"a b\\\\\\"" /Foout\\w.obj\r\n' | sed 's/in\\/in\//g; s/out\\/out\//' | iconv -f UTF-8 -t UTF-16LE
} >"$in/utf16.rsp"
twice 1 clang-cl @in/utf16.rsp
cl='/DA#1 /nologo' after='/Brepro /O2'
twice 2 clang-cl /MP /c in/y.c in/z.c
cl='' after=''
say "clang-cl: $commands commands, objects as clang-cl alone writes them"

set -- clang-cl /nologo /Brepro /showIncludes /c /Iin/first /Iin/second in/w.c /Foout/w.obj
headers_change "$@"
cl=/DOTHER
changed miss.new=1 "$@"
cl=''
# With the time in it, a hit is the object of the miss.
set -- sarsen cc clang-cl /c /Iin/second in/w.c /Foout/w.obj
ran alone "$@"
through hit.direct=1 "$@"
say "clang-cl: headers change and appear; a link named clang-cl"

# go_tests PACKAGE PATTERN VARIABLE... runs the tests of a package in the root. None of them may be skipped.
go_tests() {
	package=$1 pattern=$2
	shift 2
	(cd "$repository/$package" && CGO_ENABLED=0 GOPROXY=off go test -c -o "$work/tests" .) || fail "the tests of $package can't be built"
	status=0
	inside "$@" /tmp/tests -test.v -test.run "^($pattern)\$" >"$work/log" 2>&1 || status=$?
	if [ $status != 0 ] || grep -q -e '--- SKIP' "$work/log"; then
		grep -v -e '^=== ' -e '--- PASS' "$work/log" >&2
		fail "the tests of $package: status $status, or some were skipped"
	fi
	for test in $(echo "$pattern" | tr '|' ' '); do want "^--- PASS: $test " "$work/log" "the tests of $package"; done
	say "$package: $pattern: $(grep -c -e '--- PASS' "$work/log") tests pass"
}

go_tests compiler 'TestHit|TestMicrosoft|TestSeveralMicrosoft|TestWindows'
go_tests compiler/args TestRealClang
go_tests compiler/args TestRealClangCL SARSEN_ALL=1
say "PASS"
