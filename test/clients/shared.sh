#!/bin/sh
# Two 'sarsen serve' share a bucket (versitygw) and a Redis (Debian's redis-server), and never list
# the bucket again: all that they know of one another is what Redis says. Bazel builds a real C
# project through one, and from nothing through the other, which must be nothing but remote cache
# hits. One server is killed in the middle of a build, and Redis is, and a Redis that is back is
# empty.
# Usage: SARSEN=/path/to/sarsen shared.sh
# SARSEN_TEST_REDIS and SARSEN_TEST_VERSITYGW are the programs, or what Go's tests left in the cache.
. "$(dirname "$0")/lib.sh"

root=${SARSEN_TEST_ROOT:-$("$here/sidroot.sh")}
redis_program=${SARSEN_TEST_REDIS:-$cache/redis/usr/bin/redis-server}
# shellcheck disable=SC2012 # the names are hashes
gate_program=${SARSEN_TEST_VERSITYGW:-$(ls -t "$cache"/versitygw-* 2>/dev/null | head -n 1)}
export SARSEN_TEST_ROOT="$root" SARSEN_TEST_REDIS="$redis_program" SARSEN_TEST_VERSITYGW="$gate_program"
alone "$@"
[ -x "$redis_program" ] || fail "there is no redis-server; go test ./internal/redisserver fetches it"
[ -x "$gate_program" ] || fail "there is no versitygw; go test ./internal/versitygw builds it"
mount -t proc proc "$root/proc"
scratch "$root/tmp"
. "$here/bazel/bazel.lib.sh"
startup="--output_user_root=/tmp/shared"

# start_redis starts it, empty, and returns when it answers.
start_redis() {
	LD_LIBRARY_PATH=$(echo "$cache"/redis/usr/lib/*-linux-gnu*) "$redis_program" --bind 127.0.0.1 --port 6379 \
		--save "" --appendonly no --dir "$work" >>"$work/redis.log" 2>&1 &
	redis=$!
	listening $redis 6379 redis-server
}

# listening PID PORT WHAT waits until a process takes connections.
listening() {
	tries=0
	until curl -s --max-time 1 -o "$work/answer" "telnet://127.0.0.1:$2" </dev/null 2>&1 || [ $? = 28 ]; do
		kill -0 "$1" 2>/dev/null || fail "$3 ended at once"
		tries=$((tries + 1))
		[ $tries -lt 300 ] || fail "$3 does not listen"
		sleep 0.1
	done
}

mkdir -p "$work/bucket/builds" "$work/sidecar"
ROOT_ACCESS_KEY=testkey ROOT_SECRET_KEY=testsecret "$gate_program" --port 127.0.0.1:7070 --quiet \
	posix --sidecar "$work/sidecar" "$work/bucket" >"$work/gate.log" 2>&1 &
gate=$!
listening $gate 7070 versitygw
start_redis

printf 'access-key: testkey\nsecret-key: testsecret\n' >"$work/keys.yaml"
cat >"$work/sarsen.yaml" <<END
max-size: 1GB
bucket:
  name: builds
  endpoint: http://127.0.0.1:7070
  credentials: $work/keys.yaml
  refresh: never
  collect: never
redis:
  address: 127.0.0.1:6379
  timeout: 1s
END

# start NAME starts the server a or b. What it says comes into sarsen-NAME.log, its process into $NAME.
start() {
	: >"$work/$1.out"
	env -i PATH="$PATH" HOME="$work/home" TMPDIR="$work" "$SARSEN" serve --config "$work/sarsen.yaml" --dir "$work/disk-$1" \
		--grpc "$(grpc_of "$1")" --http "$(http_of "$1")" >"$work/$1.out" 2>>"$work/sarsen-$1.log" &
	eval "$1=$!"
	ready $! "$work/$1.out" "sarsen serve, $1"
}
grpc_of() { [ "$1" = a ] && echo 127.0.0.1:8980 || echo 127.0.0.1:8990; }
http_of() { [ "$1" = a ] && echo 127.0.0.1:8981 || echo 127.0.0.1:8991; }

# number SERVER NAME prints what a server's metrics say.
number() {
	http=$(http_of "$1")
	metric "$2"
}

# said TEXT wants it in the log of one of the servers.
said() { cat "$work"/sarsen-*.log | grep -q -- "$1" || fail "no server said '$1'"; }

# build NAME SERVER INSTANCE builds everything from nothing.
build() {
	name=$1
	bazel clean
	began=$(date +%s)
	bazel build --remote_cache="grpc://$(grpc_of "$2")" --remote_instance_name="$3" //...
	took=$(($(date +%s) - began))
	count
	say "$name: $hits remote cache hits, $ran ran here, in $took s"
}

# cold wants a build of which the cache had nothing.
cold() {
	build "$@"
	[ "$hits" = 0 ] && [ "$ran" -gt 40 ] || fail_bazel "$name: got $hits hits and $ran actions that ran, want none, and more than 40: $line"
	cacheable=$ran
}

# warm wants a build of nothing but hits.
warm() {
	build "$@"
	[ "$ran" = 0 ] && [ "$hits" = "$cacheable" ] || fail_bazel "$name: got $hits hits and $ran actions that ran, want $cacheable and none: $line"
	if grep -i 'warning: .*remote' "$log"; then fail_bazel "$name: Bazel complained about the cache"; fi
}

# halfway COMMAND... runs it when the build that is under way has stored ten actions' outputs more.
halfway() {
	from=$1
	shift
	before=$(number "$from" sarsen_bucket_uploads_total)
	(
		tries=0
		until [ "$(number "$from" sarsen_bucket_uploads_total)" -gt $((before + 20)) ]; do
			tries=$((tries + 1))
			[ $tries -lt 600 ] || exit 0
			sleep 0.1
		done
		"$@"
		touch "$work/happened"
	) &
	rm -f "$work/happened"
	watcher=$!
}

happened() {
	wait $watcher || true
	[ -e "$work/happened" ] || fail "$1: the build ended before it"
}

start a
start b

cold "through a" a one
warm "through b" b one
cold "through b, another instance" b two
warm "through a" a two
[ "$(number b sarsen_redis_adopted_total)" -gt 40 ] || fail "b adopted $(number b sarsen_redis_adopted_total) objects, want more than 40"

# A server is killed in the middle. Bazel goes on by itself; what was stored is hit through the other.
halfway a kill -KILL "$a"
build "a is killed in the middle" a three
happened "a is killed"
wait "$a" || true
build "through b after that" b three
[ "$hits" -gt 0 ] || fail_bazel "$name: got no hit of what the killed server had stored"
[ $((hits + ran)) = "$cacheable" ] || fail_bazel "$name: got $hits and $ran, want $cacheable in all"
warm "through b again" b three
warm "through b, what a stored first" b one
start a
warm "through a, which is back" a three

# Redis is killed in the middle. Nothing fails; what is stored meanwhile is hit through who stored it.
halfway a kill -KILL $redis
cold "redis is killed in the middle" a four
if grep -i 'warning: .*remote' "$log"; then fail_bazel "$name: Bazel complained about the cache"; fi
happened "redis is killed"
wait $redis || true
warm "through a, without redis" a four
said "redis does not answer; this server goes on without it"
build "through b, without redis" b four
[ $((hits + ran)) = "$cacheable" ] || fail_bazel "$name: got $hits and $ran, want $cacheable in all"

start_redis
for server in a b; do
	tries=0
	while [ "$(number $server sarsen_redis_away)" != 0 ]; do
		tries=$((tries + 1))
		[ $tries -lt 900 ] || fail "$server did not take redis up again"
		curl -s -o "$work/answer" "http://$(http_of $server)/ac/$(printf %064d $tries)" || true
		curl -s -o "$work/answer" -T - "http://$(http_of $server)/cas/$(echo $tries | sha256sum | cut -c1-64)" <<-END || true
			$tries
		END
		sleep 0.1
	done
done
cold "redis is back, empty" a five
warm "through b" b five

stop "$a" "sarsen a"
stop "$b" "sarsen b"
SARSEN_CHECK=$("$SARSEN" fsck --config "$work/sarsen.yaml" --bucket builds) || fail "the bucket is damaged: $SARSEN_CHECK"
say "PASS"
