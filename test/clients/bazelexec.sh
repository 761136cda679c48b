#!/bin/sh
# Bazel 7.7.1 builds and tests a real C project on Sarsen's workers: with everything well, with a worker killed
# in the middle, with the server stopped and killed in the middle, and again and again in a cache that is so
# small that it evicts all the time. Usage: SARSEN=/path/to/sarsen bazelexec.sh
# SARSEN_TEST_ROUNDS says how often (20).
. "$(dirname "$0")/lib.sh"

root=${SARSEN_TEST_ROOT:-$("$here/sidroot.sh")}
export SARSEN_TEST_ROOT="$root"
alone "$@"
mount -t proc proc "$root/proc"
scratch "$root/tmp"
. "$here/bazel/bazel.lib.sh"
rounds=${SARSEN_TEST_ROUNDS:-20}

# What every build has. All actions have the round's name in their environment, so a round finds nothing of
# those before it; whatever runs here instead of on a worker is an error.
remotely="--remote_executor=grpc://$grpc --spawn_strategy=remote --genrule_strategy=remote --strategy=TestRunner=remote
	--noremote_local_fallback --jobs=64 --remote_download_minimal --show_progress_rate_limit=0.05"

# begin NAME starts a build with all tests in the background; finish waits for it.
begin() {
	name=$1
	shift
	bazel clean
	# shellcheck disable=SC2086 # the options are to be split
	bazel test $remotely "--action_env=ROUND=$name" "$@" //... &
	building=$!
	began=$(date +%s)
}

# finish wants that every action ran on a worker and none here, and that no input was lost. With the argument
# retried, what was under way when the server went may be a hit when Bazel asks again.
finish() {
	wait $building || fail "$name: the build failed"
	took=$(($(date +%s) - began))
	count
	[ "$ran" = 0 ] || fail_bazel "$name: got $ran actions that ran here, want 0: $line"
	[ "$hits" = 0 ] || [ "${1:-}" = retried ] || fail_bazel "$name: got $hits remote cache hits, want 0: $line"
	[ $((remote + hits)) -gt 40 ] || fail_bazel "$name: got $remote actions that ran remotely, want more than 40: $line"
	grep -q '^Executed 4 out of 4 tests: 4 tests pass' "$log" || fail_bazel "$name: not all four tests ran and passed"
	if grep -iE 'lost inputs|no longer available|cache eviction|found transient remote cache error' "$log" >&2; then
		fail_bazel "$name: inputs were lost"
	fi
	say "$name: $remote actions ran remotely in $took s"
}

# amid N waits until Bazel has N actions behind it, and wants at least ten before it.
amid() {
	tries=0 behind=0 of=0
	until [ "$behind" -ge "$1" ]; do
		kill -0 $building 2>/dev/null || fail_bazel "$name: the build ended before $1 actions were done"
		tries=$((tries + 1))
		[ $tries -lt 1200 ] || fail_bazel "$name: $1 actions were not done within 120 s"
		sleep 0.1
		progress=$(grep -oE '^\[[0-9,]+ / [0-9,]+\]' "$log" | tail -n 1 | tr -d '[],')
		behind=${progress%% *} of=${progress##* }
		: "${behind:=0}" "${of:=0}"
	done
	[ $((of - behind)) -ge 10 ] || fail_bazel "$name: wanted to interfere in the middle, and only $((of - behind)) of $of actions were left"
	say "$name: $behind of $of actions were done"
}

# again NAME builds NAME's actions once more, and wants them as hits.
again() {
	bazel clean
	# shellcheck disable=SC2086
	bazel test $remotely "--action_env=ROUND=$1" //...
	count
	[ "$ran" = 0 ] && [ "$remote" = 0 ] && [ "$hits" -gt 40 ] || fail_bazel "$1, again: got $hits hits, $remote actions that ran remotely, $ran here; want only hits: $line"
	say "$1, again: $hits remote cache hits"
}

start_server
start_worker one
one=$worker
start_worker two
two=$worker
startup="--output_user_root=/tmp/bazel"

begin plain
finish
again plain

begin outputs --remote_download_outputs=all
finish
inside /tmp/zstd/bazel-bin/zstdcli --version | grep -q Zstandard || fail "outputs: the program that was built remotely does not run"

begin worker-killed
amid 20
crash $one
finish
start_worker one
one=$worker

# Bazel gives up after five attempts within three seconds, unless told otherwise.
begin server-stopped --remote_retries=10
amid 20
stop_sarsen
start_server
finish retried

begin server-killed --remote_retries=10
amid 20
crash $sarsen
start_server
finish retried

# A ring of 256 MB that is full, and half a megabyte a second from somebody else. A lease outlasts a build, but
# not what came before it.
stop_sarsen
rm -rf "$work/data"
start_server --max-size 256MB --lease 1s
mkdir "$work/noise"
for part in $(seq 8); do
	head -c 40000000 /dev/urandom | split -b 500000 - "$work/noise/$part-"
	"$SARSEN" put --server grpc://$grpc "$work/noise/$part-"* >/dev/null || fail "the small cache could not be filled"
	rm "$work"/noise/*
	sleep 2
done
[ "$(metric sarsen_store_evicted_segments_total)" -gt 0 ] || fail "the small cache: 320 MB were put, and nothing was evicted"
stop_sarsen
start_server --max-size 256MB --lease 3m
while sleep 1; do
	head -c 500000 /dev/urandom >"$work/noise/one"
	"$SARSEN" put --server grpc://$grpc "$work/noise/one" >/dev/null 2>&1 || say "the noise was refused"
done &
noise=$!
for round in $(seq "$rounds"); do
	before=$(metric sarsen_store_evicted_segments_total)
	begin "small-$round"
	finish
	after=$(metric sarsen_store_evicted_segments_total)
	[ "$after" -gt "$before" ] || fail "small-$round: nothing was evicted during the build"
done
kill $noise
say "$rounds builds in a row while the cache evicted; no input was lost"

stop "$one" "worker one"
stop "$two" "worker two"
stop_sarsen
say "PASS"
