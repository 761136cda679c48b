#!/bin/sh
# recc compiles on Sarsen's workers: a program is built of two files there, a second compilation is a hit, and
# a compiler's error comes back as one. Usage: SARSEN=/path/to/sarsen recc.sh
. "$(dirname "$0")/lib.sh"

root=${SARSEN_TEST_ROOT:-$("$here/sidroot.sh")}
export SARSEN_TEST_ROOT="$root"
alone "$@"
mount -t proc proc "$root/proc"
scratch "$root/tmp"

# recc STATUS SAYS ARGUMENTS... runs it on the workers, and wants that exit status, and SAYS in what it says.
recc() {
	wanted=$1 says=$2 status=0
	shift 2
	timeout -k 5 120 chroot "$root" /usr/bin/env -i --chdir=/tmp/project PATH=/usr/bin:/bin HOME=/tmp/home LC_ALL=C \
		RECC_SERVER=http://$grpc RECC_PROJECT_ROOT=/tmp/project RECC_REMOTE_ENV_PATH=/usr/bin:/bin \
		RECC_REMOTE_PLATFORM_OSFamily=linux RECC_LOG_LEVEL=info recc "$@" >"$work/log" 2>&1 || status=$?
	if [ $status != "$wanted" ]; then
		cat "$work/log" >&2
		fail "recc $*: got status $status, want $wanted"
	fi
	want "$says" "$work/log" "recc $*"
}

start_server
start_worker one

mkdir -p "$work/project/include"
cd "$work/project"
echo 'const char *greeting(void);' >include/greeting.h
printf '#include "greeting.h"\nconst char *greeting(void) { return "hello"; }\n' >greeting.c
printf '#include <stdio.h>\n#include "greeting.h"\nint main(void) { return puts(greeting()) < 0; }\n' >main.c
echo 'int main(void) { return nothing; }' >wrong.c
cd "$work"

recc 0 'Executing action remotely' /usr/bin/gcc -Iinclude -O1 -c greeting.c -o greeting.o
recc 0 'Executing action remotely' /usr/bin/gcc -Iinclude -O1 -c main.c -o main.o
inside /usr/bin/env --chdir=/tmp/project gcc greeting.o main.o -o program
[ "$(inside /tmp/project/program)" = hello ] || fail "the program that was compiled remotely does not say hello"
inside /usr/bin/env --chdir=/tmp/project gcc -Iinclude -O1 -c main.c -o local.o
cmp "$work/project/main.o" "$work/project/local.o" || fail "main.o compiled remotely differs from one compiled here"
say "compiled two files remotely"

rm "$work/project/main.o"
recc 0 'Action Cache hit' /usr/bin/gcc -Iinclude -O1 -c main.c -o main.o
cmp "$work/project/main.o" "$work/project/local.o" || fail "main.o from the cache differs from one compiled here"
say "compiled one again: a hit"

recc 1 "'nothing' undeclared" /usr/bin/gcc -c wrong.c -o wrong.o
[ ! -e "$work/project/wrong.o" ] || fail "a compilation that failed left an object"
recc 1 "'nothing' undeclared" /usr/bin/gcc -c wrong.c -o wrong.o
say "a compilation that fails does so each time"

stop "$worker" "the worker"
stop_sarsen
say "PASS"
