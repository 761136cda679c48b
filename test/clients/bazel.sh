#!/bin/sh
# Bazel 7.7.1 builds a real C project with Sarsen as its cache, in every way that
# it can talk to one. Each way starts cold, is built, cleaned and built again: the
# second build must be nothing but remote cache hits and give the same bytes.
# Usage: SARSEN=/path/to/sarsen bazel.sh
. "$(dirname "$0")/lib.sh"

root=${SARSEN_TEST_ROOT:-$("$here/sidroot.sh")}
export SARSEN_TEST_ROOT="$root"
alone "$@"
mount -t proc proc "$root/proc"
scratch "$root/tmp"
. "$here/bazel/bazel.lib.sh"

# build NAME FLAGS... builds everything from nothing, and sets from Bazel's
# 'processes:' line how many actions were hits and how many ran here. Its exit
# status says nothing: with a cache that is broken or not there it builds as well.
build() {
	name=$1
	shift
	bazel clean
	began=$(date +%s)
	bazel build "$@" //...
	took=$(($(date +%s) - began))
	count
	ran=$((ran + remote))
	if grep -i 'warning: .*remote' "$log"; then fail_bazel "$name: Bazel complained about the cache"; fi
}

# first builds with a cache that has nothing, so that all later hits are its own.
first() {
	build "$@"
	[ "$hits" = 0 ] || fail_bazel "$name, first build: got $hits remote cache hits, want 0: $line"
	[ "$ran" -gt 40 ] || fail_bazel "$name, first build: got $ran actions that ran, want more than 40: $line"
	cacheable=$ran
	outputs >"$work/$name.first"
	say "$name: built $ran actions in $took s"
}

# second wants every action of the first build as a hit, and none that ran.
second() {
	build "$@"
	[ "$ran" = 0 ] || fail_bazel "$name, second build: got $ran actions that ran here, want 0: $line"
	[ "$hits" = "$cacheable" ] || fail_bazel "$name, second build: got $hits remote cache hits, want $cacheable: $line"
	outputs >"$work/$name.second"
	say "$name: $hits remote cache hits in $took s"
}

# outputs lists hash and name of the objects, archives and programs. (Dependency
# files never come back from a hit, and parameter files are Bazel's own.)
outputs() {
	# shellcheck disable=SC2016 # the inner shell expands it
	inside sh -c 'cd /tmp/zstd/bazel-bin && find . -type f \
		\( -name "*.o" -o -name "*.a" -o -name "*.so" -o -name zstdcli \) -print0 | sort -z | xargs -0r sha256sum'
}

same_outputs() {
	files=$(wc -l <"$work/$name.first")
	[ "$files" -gt 40 ] || fail "$name: got $files outputs to compare, want more than 40"
	diff "$work/$name.first" "$work/$name.second" >&2 || fail "$name: outputs differ, built (<) and from the cache (>)"
}

# both NAME FLAGS... is the whole round in one way of talking to the cache.
both() {
	first "$@"
	second "$@"
	same_outputs
}

# empty_sarsen starts Sarsen over with nothing in it. Instances share blobs, so what an
# earlier way uploaded would not be uploaded again.
empty_sarsen() {
	stop_sarsen
	rm -rf "$work/data"
	start_sarsen
}

start_sarsen

startup="--output_user_root=/tmp/sha256"
both plain --remote_cache=grpc://$grpc --remote_instance_name=plain

stop_sarsen
start_sarsen
say "plain: sarsen was stopped with SIGTERM and started again"
second plain --remote_cache=grpc://$grpc --remote_instance_name=plain
same_outputs
want_zstd no plain

empty_sarsen
both compressed --remote_cache=grpc://$grpc --remote_instance_name=a/compressed --remote_cache_compression
want_zstd yes compressed
empty_sarsen
both http --remote_cache=http://$http/http

first minimal --remote_cache=grpc://$grpc --remote_instance_name=minimal --remote_download_minimal
second minimal --remote_cache=grpc://$grpc --remote_instance_name=minimal --remote_download_minimal
[ ! -s "$work/minimal.second" ] || fail "minimal: Bazel fetched outputs; the flag had no effect: $(head -n 1 "$work/minimal.second")"

# Another hash is another Bazel server. The links into the first one's outputs
# have to go, or //... walks into them.
bazel shutdown
rm -f "$work"/zstd/bazel-*
startup="--output_user_root=/tmp/blake3 --digest_function=BLAKE3"
both blake3 --remote_cache=grpc://$grpc --remote_instance_name=blake3

stop_sarsen
say "PASS"
