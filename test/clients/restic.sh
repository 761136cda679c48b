#!/bin/sh
# restic, of Debian sid and of bookworm, backs up to Sarsen: a life of a repository with prune and restore; two backups, a prune and
# the cleaner at once; a server that is killed in the middle; tokens, append-only, a quota. After each step the whole
# repository is read and verified. In the end a bucket comes behind the disk, written through and back, and is collected with
# no grace all the time. Usage: SARSEN=/path/to/sarsen restic.sh [bucket]
# With bucket, only the last part is run.
. "$(dirname "$0")/lib.sh"

root=${SARSEN_TEST_ROOT:-$("$here/sidroot.sh")}
tools=${SARSEN_TEST_BACKUP:-$("$here/backuproot.sh")}
gateway=$("$here/versitygw.sh")
export SARSEN_TEST_ROOT="$root" SARSEN_TEST_BACKUP="$tools"
alone "$@"
mount -t proc proc "$root/proc"
scratch "$root/tmp"
cp "$tools/sid/usr/bin/restic" "$work/restic-sid"
cp "$tools/bookworm/usr/bin/restic" "$work/restic-bookworm"

# restic ARGUMENTS... runs it on $repository with $token.
repository=first
token=
restic() {
	timeout -k 5 "${limit:-300}" chroot "$root" /usr/bin/env -i PATH=/usr/bin:/bin HOME=/tmp/home LC_ALL=C RESTIC_PASSWORD=secret \
		RESTIC_CACHE_DIR="/tmp/cache-$version" RESTIC_REPOSITORY="rest:http://${token:+me:$token@}$http/restic/$repository/" \
		"/tmp/restic-$version" "$@"
}

# must ARGUMENTS... wants restic to succeed; what it says is in log.
must() { restic "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; fail "restic $*"; }; }

# mustnot TEXT ARGUMENTS... wants it to fail and to say that.
mustnot() {
	text=$1
	shift
	if restic "$@" >"$work/log" 2>&1; then cat "$work/log" >&2; fail "restic $* succeeded"; fi
	want "$text" "$work/log" "restic $*"
}

# clean wants every byte of the repository to be right.
clean() {
	must check --read-data
	want 'no errors were found' "$work/log" "$1"
}

# grow FOLDER SALT MEGABYTES changes FOLDER: a new file of random bytes, and one in the middle of a large one.
grow() {
	mkdir -p "$1/deep/er"
	head -c "$3"000000 /dev/urandom >"$1/random-$2"
	echo "$2" >>"$1/deep/er/log"
	cp -r "$here" "$1/scripts-$2"
	[ -e "$1/large" ] || head -c 8000000 /dev/urandom >"$1/large"
	echo "$2" | dd of="$1/large" bs=1 seek=3000000 conv=notrunc status=none
}

# restored FOLDER wants the newest snapshot of it to be it.
restored() {
	rm -rf "$work/out"
	must restore latest --path "/tmp/${1##*/}" --target /tmp/out
	diff -r "$1" "$work/out/tmp/${1##*/}" >"$work/differences" || { head "$work/differences" >&2; fail "what was restored is not what was backed up"; }
}

# life is the life of a repository.
life() {
	repository=life-$version
	mustnot 'unable to open config file\|does not exist' snapshots
	must init
	mustnot 'already' init
	for n in 1 2 3; do
		grow "$work/src" "$version-$n" 3
		must backup /tmp/src
	done
	clean "after three backups"
	must snapshots
	[ "$(grep -c '/tmp/src' "$work/log")" = 3 ] || fail "snapshots: want three"
	# shellcheck disable=SC2046 # two words
	must diff $(awk '$NF == "/tmp/src" || $0 ~ "/tmp/src" { print $1 }' "$work/log" | head -n 2)
	want "random-$version-2" "$work/log" diff
	must forget --keep-last 1 --prune
	clean "after a prune"
	restored "$work/src"
	must stats
	restic dump latest /tmp/src/deep/er/log >"$work/dumped" 2>"$work/log" || fail dump
	cmp "$work/dumped" "$work/src/deep/er/log" || fail "dump"
	say "$version: init, backups, diff, prune, restore"
}

# ballast puts what nobody keeps, so that the ring goes round, until the file $work/enough is there.
ballast() {
	while [ ! -e "$work/enough" ]; do
		head -c 6000000 /dev/urandom >"$work/stone"
		curl -sS -o /dev/null -T "$work/stone" "http://$http/cas/$(sha256sum "$work/stone" | cut -d' ' -f1)" || true
	done
}

# at_once has two backups, a prune of the same repository and one of another, and the cleaner at once.
at_once() {
	repository=beside-$version
	must init
	repository=at-once-$version
	must init
	rm -rf "$work/one" "$work/two" "$work/beside"
	grow "$work/one" 0 4
	grow "$work/two" 0 4
	must backup /tmp/one
	met=0
	rm -f "$work/enough"
	ballast &
	loader=$!
	until [ "$(metric sarsen_store_evicted_segments_total)" -gt 0 ]; do sleep 1; done
	began=$(metric sarsen_store_evicted_segments_total)
	for n in 1 2 3; do
		grow "$work/one" $n 2
		grow "$work/two" $n 2
		# The other repository has packs of which a part goes: some are copied, and all of these deleted.
		repository=beside-$version
		rm -rf "$work/beside"
		for m in 1 2 3; do
			grow "$work/beside" "$n-$m" 2
			rm -f "$work/beside/random-$n-$((m - 1))"
			must backup /tmp/beside
		done
		restic forget --keep-last 1 --prune >"$work/log-beside" 2>&1 &
		beside=$!
		repository=at-once-$version
		restic backup --host a /tmp/one >"$work/log-one" 2>&1 &
		one=$!
		restic backup --host b /tmp/two >"$work/log-two" 2>&1 &
		two=$!
		restic forget --keep-last 1 --prune >"$work/log-prune" 2>&1 &
		prune=$!
		# Of a backup and a prune of one repository one may find the other's lock; it says so, and goes.
		for it in "one $one" "two $two" "prune $prune"; do
			if wait "${it#* }"; then
				[ "${it% *}" = prune ] || met=$((met + 1))
			else
				want 'already locked' "$work/log-${it% *}" "at once: ${it% *}"
			fi
		done
		wait $beside || { cat "$work/log-beside" >&2; fail "at once: the prune of another repository"; }
		repository=beside-$version
		clean "at once, round $n, the other repository"
		restored "$work/beside"
		repository=at-once-$version
		must backup --host a /tmp/one
		must backup --host b /tmp/two
		must forget --keep-last 1 --prune
		clean "at once, round $n"
	done
	touch "$work/enough"
	wait $loader
	evicted=$(($(metric sarsen_store_evicted_segments_total) - began))
	[ $evicted -gt 20 ] || fail "at once: only $evicted segments were evicted"
	[ $met -gt 0 ] || fail "at once: no backup got past the locks of a prune"
	restored "$work/one"
	restored "$work/two"
	say "$version: two backups, a prune and the cleaner at once; $evicted segments were evicted"
}

# held wants the newest snapshot to be a backup that had ended, or the one amid which the server was killed, if it ended all
# the same.
held() {
	rm -rf "$work/out"
	must restore latest --path /tmp/one --target /tmp/out
	diff -r "$work/was" "$work/out/tmp/one" >"$work/differences" ||
		diff -r "$work/one" "$work/out/tmp/one" >/dev/null || { head "$work/differences" >&2; fail "what was backed up before the kill is not there"; }
}

# killed kills the server amid two backups and two prunes, of which the first sign is that there are more roots or fewer. Where
# restic was done before the kill, the next one comes sooner.
killed() {
	repository=killed-$version
	must init
	rm -rf "$work/one"
	grow "$work/one" 0 6
	must backup /tmp/one
	n=1
	delay=200 # milliseconds
	tries=0
	while [ $n -le 4 ]; do
		tries=$((tries + 1))
		[ $tries -le 16 ] || fail "of 16 kills only $((n - 1)) came while restic was at work"
		rm -rf "$work/was"
		cp -r "$work/one" "$work/was"
		[ $((n % 2)) = 0 ] || grow "$work/one" $tries 6
		rm -rf "$work/cache-$version"
		if [ $((n % 2)) = 1 ]; then set -- backup /tmp/one; else set -- forget --keep-last 1 --prune; fi
		restic "$@" >"$work/log-killed" 2>&1 &
		client=$!
		begun=$(metric sarsen_store_roots)
		until [ "$(metric sarsen_store_roots)" != "$begun" ]; do
			kill -0 $client 2>/dev/null || break
		done
		sleep "$(printf 0.%03d $delay)"
		if kill -0 $client 2>/dev/null; then
			n=$((n + 1))
			delay=$((n * 200))
		else
			delay=$((delay / 2))
		fi
		crash "$sarsen"
		sleep 0.3
		serve
		wait $client || true # restic tries again for a while, and may give up
		must unlock --remove-all
		clean "after a kill amid $1"
		held
		must backup /tmp/one
	done
	restored "$work/one"
	say "$version: killed amid backups and prunes"
}

# tokens has repositories with tokens, which only add, or have a quota.
tokens() {
	repository=sealed-$version
	token=wrong-token
	mustnot '401\|unauthorized\|Unauthorized' init
	token=adding-token
	must init
	grow "$work/src" "$version-tokens" 2
	must backup /tmp/src
	must backup /tmp/src # which removes its lock
	mustnot '403\|Forbidden' forget --keep-last 1 --prune
	clean "after a prune that was refused"
	must snapshots
	[ "$(grep -c '/tmp/src' "$work/log")" = 2 ] || fail "append-only: a snapshot was forgotten"
	token=pruning-token
	must forget --keep-last 1 --prune
	clean "after the prune with another token"
	repository=small-$version
	token=
	must init
	limit=25 mustnot '507\|quota' backup /tmp/src
	must unlock --remove-all
	clean "after a backup that did not fit"
	say "$version: tokens, append-only and a quota"
}

serve() { start_sarsen --worker-slots 0 --max-size 320MB --lease 1s --backups "$work/backups.yaml" "$@"; }

# serve_bucket MODE serves with the bucket behind the disk.
serve_bucket() {
	serve --bucket builds --bucket-endpoint "http://$s3" --bucket-credentials "$work/keys.yaml" --bucket-write "$1" --bucket-collect never
}

# bucket starts an S3 server with an empty bucket.
bucket() {
	rm -rf "$work/s3"
	mkdir -p "$work/s3/data/builds" "$work/s3/meta"
	ROOT_ACCESS_KEY=testkey ROOT_SECRET_KEY=testsecret "$gateway" --port "$s3" --quiet posix --sidecar "$work/s3/meta" "$work/s3/data" >"$work/s3/log" 2>&1 &
	gate=$!
	printf 'access-key: testkey\nsecret-key: testsecret\n' >"$work/keys.yaml"
	until curl -s -o /dev/null "http://$s3/"; do
		kill -0 $gate || { cat "$work/s3/log" >&2; fail "versitygw ended"; }
		sleep 0.1
	done
}

# collect collects the bucket until the file $work/enough is there, and leaves nothing that nobody holds.
collect() {
	while [ ! -e "$work/enough" ]; do
		"$SARSEN" gc --server "http://$http" --all --patience 5s >>"$work/collected" 2>>"$work/uncollected" || true
	done
}

# on_bucket MODE has a disk with backups that gets a bucket behind it.
on_bucket() {
	repository=life-$version
	rm -rf "$work/data" "$work/src" "$work/enough" "$work/collected"
	bucket
	serve
	must init
	grow "$work/src" bucket-1 8
	must backup /tmp/src
	stop_sarsen
	serve_bucket "$1"
	want 'backups move from the disk to the bucket' "$work/sarsen.log" "the first start with a bucket"
	clean "after the roots moved to the bucket"
	collect &
	collector=$!
	for n in 2 3 4; do
		grow "$work/src" bucket-$n 8
		must backup /tmp/src
		clean "on a bucket, backup $n"
	done
	must forget --keep-last 1 --prune
	grow "$work/src" bucket-5 2
	must backup /tmp/src
	clean "on a bucket, after a prune"
	touch "$work/enough"
	wait $collector
	grep -q '[1-9][0-9]* deleted' "$work/collected" || { cat "$work/collected" "$work/uncollected" >&2; fail "nothing was collected"; }
	restored "$work/src"
	stop_sarsen
	rm -rf "$work/data" # the disk is lost
	serve_bucket "$1"
	clean "from the bucket alone"
	restored "$work/src"
	stop_sarsen
	"$SARSEN" fsck --bucket builds --bucket-endpoint "http://$s3" --bucket-credentials "$work/keys.yaml" >"$work/log" 2>&1 || { cat "$work/log" >&2; fail fsck; }
	crash $gate
	say "$version: a bucket behind the disk, written $1, collected $(grep -c deleted "$work/collected") times amid backups and a prune"
}

cat >"$work/backups.yaml" <<-END
	restic:
	  life-sid: {}
	  life-bookworm: {}
	  at-once-sid: {}
	  at-once-bookworm: {}
	  beside-sid: {}
	  beside-bookworm: {}
	  killed-sid: {}
	  killed-bookworm: {}
	  sealed-sid: &sealed {token: adding-token, append-only: true, maintenance-token: pruning-token}
	  sealed-bookworm: *sealed
	  small-sid: &small {quota: 10MB}
	  small-bookworm: *small
END
versions='sid bookworm'
[ "${1:-}" != bucket ] || versions=
for version in $versions; do
	rm -rf "$work/data" "$work/src"
	serve
	token=
	life
	at_once
	killed
	tokens
	stop_sarsen
	serve # everything is there after a restart
	token=
	repository=at-once-$version
	clean "after a restart"
	stop_sarsen
done
version=sid
s3=127.0.0.1:8982
on_bucket through
on_bucket back
say OK
