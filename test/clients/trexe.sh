#!/bin/sh
# trexe runs commands on Sarsen's workers: it waits for them, or leaves and comes back, cancels, and reads what
# they say while they say it. Usage: SARSEN=/path/to/sarsen trexe.sh
. "$(dirname "$0")/lib.sh"

root=${SARSEN_TEST_ROOT:-$("$here/sidroot.sh")}
export SARSEN_TEST_ROOT="$root"
alone "$@"
mount -t proc proc "$root/proc"
scratch "$root/tmp"

# trexe STATUS ARGUMENTS... wants that exit status. Its two outputs go to $work/said and $work/log.
trexe() {
	wanted=$1 status=0
	shift
	run_trexe "$@" || status=$?
	[ $status = "$wanted" ] && return
	cat "$work/said" "$work/log" >&2
	fail "trexe $*: got status $status, want $wanted"
}

run_trexe() {
	timeout -k 5 120 chroot "$root" /usr/bin/env -i --chdir=/tmp PATH=/usr/bin:/bin HOME=/tmp/home LC_ALL=C \
		stdbuf -oL trexe --remote=http://$grpc "$@" >"$work/said" 2>"$work/log"
}

# wanted_file NAME CONTENT fails unless that file below $work holds just that.
wanted_file() {
	got=$(cat "$work/$1")
	[ "$got" = "$2" ] || fail "$1: got '$got', want '$2'"
}

start_server
start_worker one
mkdir "$work/in"
echo input >"$work/in/file"
io="--input-path=in --output-path=out --env=PATH=/usr/bin:/bin"

# shellcheck disable=SC2086 # $io is to be split
{
	trexe 0 $io --wait --d=waited /bin/sh -c 'tr a-z A-Z <file >out && echo said && echo complained >&2'
	wanted_file waited/out INPUT
	wanted_file said said
	want complained "$work/log" "standard error"
	trexe 0 $io --wait --d=again /bin/sh -c 'tr a-z A-Z <file >out && echo said && echo complained >&2'
	wanted_file again/out INPUT
	trexe 7 $io --wait --d=failed /bin/sh -c 'echo said; exit 7'
	wanted_file said said
	say "waited: outputs, both streams and the status came back"

	trexe 0 $io --no-wait /bin/sh -c 'sleep 3; cat file file >out'
	operation=$(cat "$work/said")
	trexe 0 "--operation=$operation" --wait --d=later
	wanted_file later/out "$(printf 'input\ninput')"
	say "left and came back: the action went on, and its outputs were there"

	trexe 0 $io --no-wait /bin/sh -c 'sleep 600'
	operation=$(cat "$work/said")
	trexe 0 "--operation=$operation" --cancel
	if run_trexe "--operation=$operation" --wait --d=cancelled; then fail "an operation that was cancelled ended well"; fi
	want "[Cc]ancel\|CANCEL" "$work/log" "waiting for what was cancelled"
	trexe 0 $io --wait --d=free /bin/sh -c 'echo free >out' # two slots, of which none is taken any more
	say "cancelled: whoever waits is told, and the worker is free"

	run_trexe $io --wait --stream-logs /bin/sh -c 'echo early; sleep 5; echo late' &
	streaming=$!
	tries=0
	until grep -q early "$work/said"; do
		tries=$((tries + 1))
		[ $tries -lt 300 ] || fail "nothing of an action's output came within 30 s"
		sleep 0.1
	done
	if grep -q late "$work/said"; then fail "an action's output came all at once at its end, not while it ran"; fi
	wait $streaming || fail "trexe --stream-logs: got status $?, want 0"
	wanted_file said "$(printf 'early\nlate')"
	say "streamed: output came while the action ran"
}

stop "$worker" "the worker"
stop_sarsen
say "PASS"
