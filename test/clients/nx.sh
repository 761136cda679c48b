#!/bin/sh
# Nx 24.0 runs the tasks of a workspace with Sarsen as its self-hosted remote cache: a second run brings all outputs back.
# Then Sarsen is full, failing and slow: each time the tasks are run. Without a server Nx fails by itself, before it runs a
# task; when the server is killed in the middle it runs them and fails. It builds if it is told not to use one.
# Usage: SARSEN=/path/to/sarsen nx.sh
. "$(dirname "$0")/lib.sh"

root=${SARSEN_TEST_ROOT:-$("$here/npmroot.sh")}
export SARSEN_TEST_ROOT="$root"
for program in node git; do
	command -v $program >/dev/null || fail "$program is missing"
done
need mkfs.ext4 e2fsprogs
alone "$@"
scratch "$root/work"
. "$here/trouble.lib.sh"

dialect=nx
tasks=4
skip=false
amid='' # what the task of a does besides
base=http://$http/nx/team

# build SALT runs all tasks in a workspace that is new.
build() {
	rm -rf "$work/project"
	mkdir -p "$work/project"
	cd "$work/project"
	echo '{"name": "root", "private": true}' >package.json
	ln -s "$root/node_modules" node_modules
	echo '{"analytics": false, "namedInputs": {"default": ["{projectRoot}/**/*"]}}' >nx.json
	printf 'node_modules\n.nx\nout\n' >.gitignore
	for p in a b c d; do
		mkdir -p $p
		cat >$p/project.json <<-END
			{"name": "$p", "targets": {"build": {"executor": "nx:run-commands", "cache": true,
			"outputs": ["{projectRoot}/out"], "options": {"command": "sh $p/build.sh"}}}}
		END
		# Random bytes: no second run could make them again. More of them than Sarsen keeps in memory.
		echo "mkdir -p $p/out; echo $p-$1 >$p/out/name; head -c 400000 /dev/urandom >$p/out/random" >$p/build.sh
		[ $p != a ] || echo "$amid" >>$p/build.sh
	done
	git init -q
	git add -A
	git -c user.name=test -c user.email=test@example.com commit -q -m test
	status=0
	timeout -k 5 200 env -i PATH="$PATH" HOME="$work/home" LC_ALL=C NO_COLOR=1 CI=true NX_NO_CLOUD=true NX_DAEMON=false NX_TUI=false NX_SKIP_REMOTE_CACHE=$skip \
		NX_SELF_HOSTED_REMOTE_CACHE_SERVER="$base" NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN=secret \
		node_modules/.bin/nx run-many -t build --output-style=stream >"$work/log" 2>&1 || status=$?
	[ "${away:-}" != 1 ] || return $status
	[ $status = 0 ] || { cat "$work/log" >&2; fail "$1: got status $status, want 0"; }
	for p in a b c d; do
		got=$(cat $p/out/name)
		[ "$got" = "$p-$1" ] || fail "$1: the output of $p is '$got'"
	done
	hits=$(grep -c 'remote cache\]' "$work/log" || true)
	misses=$((tasks - hits))
	cd "$work"
}

start_sarsen
hits_all namespace
stop_sarsen
start_sarsen
build namespace
[ "$hits" = $tasks ] || fail "after a restart: got $hits hits, want $tasks"
say "after a restart: $hits hits"
base=http://$http
hits_all as-kura
stop_sarsen
base=http://$http/nx/team

when_full
when_failing
when_slow

# What docs/clients.md says of Nx without a server.
away=1
restart
amid="touch $work/amid; until [ -e $work/killed ]; do sleep 0.05; done"
build killed &
building=$!
kill_at "$work/amid" "Nx runs no task"
touch "$work/killed"
amid=''
if wait $building; then fail "killed in the middle: Nx succeeds by itself; then docs/clients.md is wrong"; fi
want "Failed to send request" "$work/log" "killed in the middle"
for p in a b c d; do
	[ -s "$work/project/$p/out/random" ] || fail "killed in the middle: the task of $p did not run; then docs/clients.md is wrong"
done
say "killed in the middle: Nx runs all tasks, and fails by itself"
if build gone; then fail "gone: Nx builds by itself; then docs/clients.md is wrong"; fi
want "Failed to send request" "$work/log" "gone"
away=0 skip=true
build gone
say "gone: Nx fails by itself, and builds with NX_SKIP_REMOTE_CACHE=true"
say "PASS"
