#!/bin/sh
# Turborepo 2.11 runs the tasks of a workspace with Sarsen as its remote cache, signed, and with its preflight: a second
# run brings all outputs back. Then Sarsen is full, failing, slow and gone: each time the tasks are run.
# Usage: SARSEN=/path/to/sarsen turbo.sh
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

dialect=turbo
tasks=4
flags=

# build SALT runs all tasks in a workspace that is new but for where it lies.
build() {
	rm -rf "$work/project"
	mkdir -p "$work/project"
	cd "$work/project"
	echo '{"name": "root", "private": true, "packageManager": "npm@11.0.0", "workspaces": ["packages/*"]}' >package.json
	echo '{"name": "root", "lockfileVersion": 3, "packages": {}}' >package-lock.json
	printf '{"globalEnv": ["SALT"], "remoteCache": {"signature": true%s}, "tasks": {"build": {"outputs": ["out/**"]}}}\n' "$flags" >turbo.json
	printf 'node_modules\n.turbo\nout\n' >.gitignore
	for p in a b c d; do
		mkdir -p packages/$p
		printf '{"name": "%s", "version": "1.0.0", "scripts": {"build": "sh build.sh"}}\n' $p >packages/$p/package.json
		# Random bytes: no second run could make them again. More of them than Sarsen keeps in memory.
		echo "mkdir -p out; echo $p-\$SALT >out/name; head -c 400000 /dev/urandom >out/random" >packages/$p/build.sh
	done
	git init -q
	git add -A
	git -c user.name=test -c user.email=test@example.com commit -q -m test
	status=0
	timeout -k 5 200 env -i PATH="$PATH" HOME="$work/home" LC_ALL=C NO_COLOR=1 SALT="$1" DO_NOT_TRACK=1 \
		TURBO_API="http://$http/turbo/team" TURBO_TOKEN=secret TURBO_TEAM=team TURBO_TELEMETRY_DISABLED=1 TURBO_REMOTE_CACHE_SIGNATURE_KEY=0123456789abcdef0123456789abcdef \
		"$root/node_modules/.bin/turbo" run build --cache=remote:rw --no-update-notifier >"$work/log" 2>&1 || status=$?
	[ $status = 0 ] || { cat "$work/log" >&2; fail "$1: got status $status, want 0"; }
	for p in a b c d; do
		got=$(cat packages/$p/out/name)
		[ "$got" = "$p-$1" ] || fail "$1: the output of $p is '$got'"
	done
	hits=$(sed -n 's/^ *Cached: *\([0-9]*\) cached.*/\1/p' "$work/log")
	misses=$((tasks - ${hits:-0}))
	cd "$work"
}

start_sarsen
hits_all signed
flags=', "preflight": true'
hits_all preflight
stop_sarsen
flags=
start_sarsen
build signed
[ "$hits" = $tasks ] || fail "after a restart: got $hits hits, want $tasks"
say "after a restart: $hits hits"
got=$(curl -sS -X POST -d '{"hashes": ["none"]}' "http://$http/turbo/team/v8/artifacts")
[ "$got" = '{"none":null}' ] || fail "query: got $got"
stop_sarsen

in_trouble
say "PASS"
