#!/bin/sh
# Bazel 7.7.1 has a tool as a persistent worker on Sarsen's workers, in both protocols: many actions run in few
# processes, one of which is killed in the middle, and the outputs are those of a build without.
# Usage: SARSEN=/path/to/sarsen bazelworker.sh
. "$(dirname "$0")/lib.sh"

root=${SARSEN_TEST_ROOT:-$("$here/sidroot.sh")}
export SARSEN_TEST_ROOT="$root"
alone "$@"
mount -t proc proc "$root/proc"
scratch "$root/tmp"

log=$work/bazel.log
project=$work/zstd # where bazel.lib.sh runs Bazel
. "$here/bazel/bazel.lib.sh"
rm -rf "$project"
mkdir "$project"
cp "$here/bazel/bazelrc" "$project/.bazelrc"
cp "$here/bazel/upper.py" "$here/bazel/upper.bzl" "$project/"
touch "$project/WORKSPACE"
actions=60
{
	echo 'load(":upper.bzl", "upper")'
	echo '[upper(name = "p%d" % n, src = "in%d" % n) for n in range(30)]'
	# Bazel 7 does not say the protocol by itself.
	echo '[upper(name = "j%d" % n, src = "in%d" % n, json = True, exec_properties = {"persistentWorkerProtocol": "json"}) for n in range(30)]'
	echo 'upper(name = "bad", src = "wrong", tags = ["manual"])'
} >"$project/BUILD.bazel"
for n in $(seq 0 29); do
	echo "this is input $n" >"$project/in$n"
done
echo "all of this is wrong" >"$project/wrong"

remotely="--remote_executor=grpc://$grpc --spawn_strategy=remote --noremote_local_fallback --jobs=16 --noremote_accept_cached"
startup="--output_user_root=/tmp/bazel"

# lines TEXT prints how many lines of the workers' logs say so.
lines() { cat "$work"/worker-*.log | grep -c "$1" || true; }

# build NAME FLAGS... wants all actions to run remotely, and keeps their outputs.
build() {
	name=$1
	shift
	bazel clean
	# shellcheck disable=SC2086 # the options are to be split
	bazel build $remotely "$@" //...
	count
	[ "$remote" = $actions ] || fail_bazel "$name: got $remote actions that ran remotely, want $actions: $line"
	mkdir "$work/$name"
	inside /bin/sh -c "cp /tmp/zstd/bazel-bin/*.out /tmp/$name/"
	[ "$(find "$work/$name" -name '*.out' | wc -l)" = $actions ] || fail "$name: not all outputs are there"
}

start_server
start_worker one --log-level debug
one=$worker
start_worker two --log-level debug
two=$worker

build without
[ "$(lines 'a persistent worker is started')" = 0 ] || fail "without: a persistent worker was started that nobody asked for"

build with --experimental_remote_mark_tool_inputs
diff -r "$work/without" "$work/with" || fail "the outputs differ with persistent workers"
started=$(lines 'a persistent worker is started') again=$(lines 'a persistent worker is used again')
[ $((started + again)) = $actions ] || fail "with: got $started processes and $again requests to one that was there, want $actions in all"
[ "$started" -le 8 ] || fail "with: got $started processes for $actions actions, want 8 at most"
say "with: $actions actions ran in $started processes"

# A process dies in the middle: after ten more requests, while others wait.
(
	tries=0
	until [ "$(lines 'a persistent worker is used again')" -ge $((again + 10)) ]; do
		tries=$((tries + 1))
		[ $tries -lt 600 ] || exit 1
		sleep 0.05
	done
	for process in /proc/[0-9]*; do
		if tr '\0' ' ' <"$process/cmdline" 2>/dev/null | grep -q 'python3 .*upper.py.*--persistent_worker'; then
			kill -KILL "${process#/proc/}"
			exit
		fi
	done
	exit 1
) &
killer=$!
build killed --experimental_remote_mark_tool_inputs
wait $killer || fail "killed: there was no process to kill"
diff -r "$work/without" "$work/killed" || fail "the outputs differ after a persistent worker was killed"
[ "$(lines 'a persistent worker is given up')" = 1 ] || fail "killed: got $(lines 'a persistent worker is given up') processes that were given up, want 1"
say "killed: $(($(lines 'a persistent worker is started') - started)) more processes for $actions actions, one of them in the place of the killed one"

# What the tool says of a mistake comes to the user, and the process stays.
status=0
# shellcheck disable=SC2086
chroot "$root" /usr/bin/env -i --chdir=/tmp/zstd PATH=/usr/bin:/bin HOME=/tmp/home LC_ALL=C \
	bazel $startup build $remotely --experimental_remote_mark_tool_inputs //:bad >"$log" 2>&1 || status=$?
[ $status = 1 ] || fail_bazel "bad: Bazel ended with status $status, want 1"
want 'wrong is wrong' "$log" "bad"
[ "$(lines 'a persistent worker is given up')" = 1 ] || fail "bad: a process was given up for an action that failed"

stop "$one" "worker one"
stop "$two" "worker two"
stop_sarsen
say "PASS"
