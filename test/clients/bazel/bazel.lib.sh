# How Bazel is run on zstd's source, for the scripts that do. It is sourced when $work is there.
# shellcheck shell=sh disable=SC2034,SC2154 # its names are used, and set, by those who source it

log=$work/bazel.log

cp -R "$root/src/zstd" "$work/zstd"
cp "$here/bazel/bazelrc" "$work/zstd/.bazelrc"
cp "$here/bazel/zstd.BUILD" "$work/zstd/BUILD.bazel"
cp "$here/bazel/roundtrip.sh" "$work/zstd/"
touch "$work/zstd/WORKSPACE"

# bazel COMMAND FLAGS... with the startup options $startup; what it says goes to $log.
bazel() {
	status=0
	# shellcheck disable=SC2086 # the options are to be split
	timeout -k 5 300 chroot "$root" /usr/bin/env -i --chdir=/tmp/zstd PATH=/usr/bin:/bin HOME=/tmp/home LC_ALL=C \
		bazel $startup "$@" >"$log" 2>&1 || status=$?
	[ $status = 0 ] || fail_bazel "'bazel $*' ended with status $status, want 0"
}

fail_bazel() {
	echo "--- the end of what bazel wrote:" >&2
	tail -n 40 "$log" >&2
	fail "$@"
}

# count sets from Bazel's 'processes:' line how many actions were hits, how many ran remotely, and how
# many ran here.
count() {
	line=$(grep -E '^INFO: [0-9]+ process(es)?: ' "$log" | tail -n 1)
	[ -n "$line" ] || fail_bazel "$name: Bazel printed no 'processes:' line"
	counts=$(echo "$line" | sed -E 's/^[^:]*: [^:]*: //; s/\.$//' | tr ',' '\n' | awk '
		/ internal$/         { next }
		/ remote cache hit$/ { hits += $1; next }
		/ remote$/           { remote += $1; next }
		                     { ran += $1 }
		END                  { print hits + 0, remote + 0, ran + 0 }')
	hits=${counts%% *}
	ran=${counts##* }
	remote=${counts#* }
	remote=${remote% *}
}
