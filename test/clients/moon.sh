#!/bin/sh
# moon 2.5.5 runs a task twice with Sarsen as its remote cache, over gRPC with and
# without zstd and over HTTP: the second run must bring back the first one's output.
# Usage: SARSEN=/path/to/sarsen moon.sh
. "$(dirname "$0")/lib.sh"

root=${SARSEN_TEST_ROOT:-$("$here/moonroot.sh")}
export SARSEN_TEST_ROOT="$root"
for program in node git; do
	command -v $program >/dev/null || fail "$program is missing"
done
alone "$@"
scratch "$root/work"

# make_project NAME API HOST COMPRESSION makes a workspace whose one task writes
# the time and a big random file, which no second run could write again.
make_project() {
	project=$work/$1
	mkdir -p "$project/.moon" "$project/app"
	cd "$project"
	printf '.moon/cache\napp/out\n' >.gitignore
	cat >.moon/workspace.yml <<-END
		projects: { app: 'app' }
		telemetry: false
		remote: { api: '$2', host: '$3', cache: { instanceName: '$1', compression: '$4' } }
	END
	cat >app/moon.yml <<-END
		tasks: { build: { command: 'sh build.sh', inputs: ['in.txt', 'build.sh'], outputs: ['out'] } }
	END
	cat >app/build.sh <<-END
		mkdir -p out/folder
		date +%s.%N >out/when
		head -c 6000000 /dev/urandom >out/folder/big
	END
	echo "$1" >app/in.txt
	# Without a commit moon fails, without git it silently caches nothing.
	git init -q
	git add -A
	git -c user.name=test -c user.email=test@example.com commit -q -m test
}

# run_task RUN runs it with nothing left of a run before.
run_task() {
	rm -rf app/out .moon/cache
	status=0
	timeout -k 5 120 env -i PATH="$PATH" HOME="$work/home" LC_ALL=C NO_COLOR=1 \
		"$root/node_modules/.bin/moon" run app:build >"$work/log" 2>&1 || status=$?
	if [ $status != 0 ]; then
		cat "$work/log" >&2
		fail "$name, $1 run: got status $status, want 0"
	fi
	(cd app/out && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$work/$name.$1"
}

# twice NAME API HOST COMPRESSION
twice() {
	name=$1
	make_project "$@"
	run_task first
	if grep 'cached from remote' "$work/log" >&2; then fail "$name, first run: got a hit in an empty cache"; fi
	run_task second
	want 'cached from remote' "$work/log" "$name, second run"
	diff "$work/$name.first" "$work/$name.second" >&2 || fail "$name: outputs differ, made (<) and from the cache (>)"
	say "$name: $(grep 'cached from remote' "$work/log" | head -n 1)"
}

start_sarsen
twice grpc grpc "grpc://$grpc" none
want_zstd no grpc
twice grpc-zstd grpc "grpc://$grpc" zstd
want_zstd yes grpc-zstd
twice http http "http://$http" none
stop_sarsen
say "PASS"
