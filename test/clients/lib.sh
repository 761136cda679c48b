# What the scripts of this folder share. It is sourced, never run.
# shellcheck shell=sh disable=SC2034,SC2154 # its names are used, and set, by those who source it
set -eu

here=$(cd "$(dirname "$0")" && pwd)
me=$(basename "$0" .sh)
cache=${SARSEN_TEST_CACHE:-${HOME:?set HOME or SARSEN_TEST_CACHE}/.cache/sarsen-test}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)

grpc=127.0.0.1:8980
http=127.0.0.1:8981

say() { echo "$me: $*"; }

# fail ends the script, and with it (it is the first process of its namespace)
# Sarsen, the client and every mount. What Sarsen wrote is shown first, because
# all of that is about to be gone.
fail() {
	for log in "${work:-/nowhere}"/sarsen.log "${work:-/nowhere}"/worker-*.log; do
		if [ -s "$log" ]; then
			echo "--- the end of $(basename "$log"):"
			tail -n 30 "$log"
		fi
	done >&2
	echo "$me: FAIL: $*" >&2
	exit 1
}

# want TEXT FILE WHAT fails unless FILE holds TEXT.
want() {
	grep -q -- "$1" "$2" && return
	echo "--- $2:" >&2
	tail -n 40 "$2" >&2
	fail "$3: got the text above, want '$1' in it"
}

# want_zstd yes|no WHAT fails unless Sarsen, since it started, has both received and
# sent zstd over gRPC, or neither: a client that quietly compresses nothing passes
# every other test.
want_zstd() {
	curl -sSf "http://$http/metrics" >"$work/metrics" || fail "$2: no metrics"
	for direction in received sent; do
		got=$(awk -v name="sarsen_grpc_blob_bytes_total{compressor=\"zstd\",direction=\"$direction\"}" \
			'$1 == name { print ($2 > 0 ? "yes" : "no") }' "$work/metrics")
		[ "$got" = "$1" ] || fail "$2: zstd $direction over gRPC: got '$got', want $1"
	done
}

# need WHAT PACKAGE... installs the packages when WHAT, a program or a file, is missing.
need() {
	if [ -e "$1" ] || command -v "$1" >/dev/null; then return; fi
	what=$1
	shift
	command -v apt-get >/dev/null || fail "$what is missing and there is no apt-get; install: $*"
	(
		flock 9 # apt's own lock makes a second run fail, not wait
		apt-get -o Acquire::Retries=5 -qq update
		DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=5 -o DPkg::Lock::Timeout=300 \
			install -y -qq --no-install-recommends "$@"
	) 9>"$cache/apt.lock" >&2 || fail "could not install: $*"
}

# enter UNSHARE-OPTIONS -- SCRIPT ARGUMENTS... runs the script again, as the first
# process of its own namespaces. When it ends, in whatever way (kill -9 too), the
# kernel takes its children and mounts away, so nothing has to be tidied up.
enter() {
	if [ "${SARSEN_TEST_INSIDE:-}" = 1 ]; then
		trap 'exit 130' INT # a first process ignores what it has no handler for
		trap 'exit 143' TERM
		return
	fi
	SARSEN_TEST_INSIDE=1 exec unshare --mount --propagation private --pid --fork --kill-child --mount-proc "$@"
}

# alone is enter for a test: with no network but its own loopback.
alone() {
	case ${SARSEN:-} in
	/*) [ -x "$SARSEN" ] || fail "SARSEN=$SARSEN is not a program" ;;
	*) fail "SARSEN must be the absolute path of the program to test" ;;
	esac
	need ip iproute2
	need curl curl ca-certificates
	enter --net -- "$0" "$@"
	ip link set lo up
}

# scratch FOLDER makes FOLDER the place for all that is written: a tmpfs that
# no other process sees, so that two runs may share the cache.
scratch() {
	work=$1
	mkdir -p "$work"
	mount -t tmpfs -o size=4g,mode=1777 tmpfs "$work"
	mkdir "$work/home"
}

# inside COMMAND... runs it in the Debian root $root.
inside() {
	chroot "$root" /usr/bin/env -i PATH=/usr/bin:/bin HOME=/tmp/home LC_ALL=C "$@"
}

# start_sarsen FLAGS... starts 'sarsen up' on $work/data and returns when it says that it is ready.
start_sarsen() { launch up --dir "$work/data" --max-size 2GB --grpc $grpc --http $http "$@"; }

# start_server FLAGS... starts 'sarsen serve' on $work/data, which leaves actions to workers.
start_server() {
	echo "max-size: 2GB" >"$work/sarsen.yaml"
	launch serve --config "$work/sarsen.yaml" --dir "$work/data" --grpc $grpc --http $http "$@"
}

launch() {
	: >"$work/sarsen.out"
	env -i PATH="$PATH" HOME="$work/home" TMPDIR="$work" \
		"$SARSEN" "$@" >"$work/sarsen.out" 2>>"$work/sarsen.log" &
	sarsen=$!
	ready $sarsen "$work/sarsen.out" "sarsen $1"
}

# ready PID FILE WHAT waits until FILE, the standard output of a process, says "ready".
ready() {
	tries=0
	until grep -q ready "$2"; do
		kill -0 "$1" 2>/dev/null || fail "'$3' ended before it said 'ready'; it said: $(cat "$2")"
		tries=$((tries + 1))
		[ $tries -lt 300 ] || fail "'$3' did not say 'ready' within 30 s; it said: $(cat "$2")"
		sleep 0.1
	done
}

# start_worker NAME FLAGS... starts a worker in the Debian root, where the compilers are, and sets worker
# to its process. In a chroot the kernel refuses user namespaces, so the root becomes that of a mount
# namespace.
start_worker() {
	name=$1
	shift
	[ -e "$work/sarsen" ] || cp "$SARSEN" "$work/sarsen"
	: >"$work/$name.out"
	# shellcheck disable=SC2016 # the inner shell expands it
	unshare --mount --propagation private /bin/sh -euc \
		'mount --rbind "$0" "$0"; cd "$0"; pivot_root . .; umount -l .; exec "$@"' "$root" \
		/usr/bin/env -i --chdir=/ PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp/home TMPDIR=/tmp \
		/tmp/sarsen worker --scheduler $grpc --dir "/tmp/$name" --name "$name" --slots 2 --sandbox auto "$@" \
		>"$work/$name.out" 2>>"$work/worker-$name.log" &
	worker=$!
	ready $worker "$work/$name.out" "sarsen worker"
}

# metric NAME prints what Sarsen's metrics say of it.
metric() {
	curl -sSf "http://$http/metrics" >"$work/metrics" || fail "no metrics"
	awk -v name="$1" '$1 == name { print $2 }' "$work/metrics"
}

# stop_sarsen sends SIGTERM and wants exit status 0 within 30 s.
stop_sarsen() { stop "$sarsen" sarsen; }

# stop PID WHAT does so with any process that this shell started.
stop() {
	kill -TERM "$1" || fail "$2 was no longer running when it was to be stopped"
	(sleep 30 && kill -KILL "$1") >/dev/null 2>&1 &
	watchdog=$!
	status=0
	wait "$1" || status=$?
	kill $watchdog 2>/dev/null || true
	case $status in
	0) ;;
	137) fail "$2 did not end within 30 s of SIGTERM" ;;
	*) fail "$2's exit status after SIGTERM: got $status, want 0" ;;
	esac
}

# crash PID kills a process that this shell started, without warning.
crash() {
	kill -KILL "$1"
	wait "$1" || true
}
