#!/bin/sh
# Debian's buildbox-worker runs actions for Sarsen over the Bots service, with its own runner and, for that
# runner's sake, buildbox-casd between it and Sarsen's CAS. Sarsen has no worker of its own here.
# Usage: SARSEN=/path/to/sarsen botworker.sh
. "$(dirname "$0")/lib.sh"

root=${SARSEN_TEST_ROOT:-$("$here/sidroot.sh")}
export SARSEN_TEST_ROOT="$root"
alone "$@"
mount -t proc proc "$root/proc"
scratch "$root/tmp"
casd=127.0.0.1:8990

# bare COMMAND... becomes that in the Debian root. There is no /dev/fuse there, with which it would stage otherwise.
bare() {
	exec chroot "$root" /usr/bin/env -i --chdir=/tmp PATH=/usr/bin:/bin HOME=/tmp/home LC_ALL=C BUILDBOX_STAGER=hardlink "$@"
}

# trexe STATUS ARGUMENTS... wants that exit status. Its two outputs go to $work/said and $work/log.
trexe() {
	wanted=$1 status=0
	shift
	(bare timeout -k 5 120 trexe --remote=http://$grpc "$@") >"$work/said" 2>"$work/log" || status=$?
	[ $status = "$wanted" ] && return
	cat "$work/said" "$work/log" >&2
	fail "trexe $*: got status $status, want $wanted"
}

# runs NAME has the worker run a command, and looks at all that comes back.
runs() {
	# shellcheck disable=SC2086 # $io is to be split
	trexe 0 $io --wait "--d=$1" "--env=ROUND=$1" /bin/sh -c 'cat file file >out && echo said && echo complained >&2'
	[ "$(cat "$work/$1/out")" = "$(printf 'input\ninput')" ] || fail "$1: out is not what was made"
	want said "$work/said" "$1, standard output"
	want complained "$work/log" "$1, standard error"
	say "$1: ran"
}

start_server
(bare buildbox-casd --cas-remote=http://$grpc --bind=$casd /tmp/casd) >"$work/worker-casd.log" 2>&1 &
(bare buildbox-worker --bots-remote=http://$grpc --cas-remote=http://$casd --concurrent-jobs=2 \
	--buildbox-run=/usr/bin/buildbox-run-hosttools --platform OSFamily=linux foreign) >"$work/worker-foreign.log" 2>&1 &
foreign=$!
mkdir "$work/in"
echo input >"$work/in/file"
io="--input-path=in --output-path=out --env=PATH=/usr/bin:/bin"

runs first
# shellcheck disable=SC2086
trexe 7 $io --wait --d=failed /bin/sh -c 'exit 7'
say "an exit status came back"

for job in 1 2; do # as many as it takes at once
	# shellcheck disable=SC2086
	trexe 0 $io --no-wait "--env=JOB=$job" /bin/sh -c 'sleep 600'
	operation=$(cat "$work/said")
	sleep 2 # it is running
	trexe 0 "--operation=$operation" --cancel
done
runs after-cancelling

stop_sarsen
start_server
runs after-a-restart
crash "$sarsen"
start_server
runs after-a-crash

stop "$foreign" "buildbox-worker"
stop_sarsen
say "PASS"
