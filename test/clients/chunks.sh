#!/bin/sh
# buildbox-casd 1.4, which splits and splices: what it sends and fetches of a large file of which it has another
# version is counted on the wire. Usage: SARSEN=/path/to/sarsen chunks.sh
. "$(dirname "$0")/lib.sh"

root=${SARSEN_TEST_ROOT:-$("$here/sidroot.sh")}
export SARSEN_TEST_ROOT="$root"
alone "$@"
mount -t proc proc "$root/proc"
scratch "$root/tmp"

# start_casd NAME starts a casd whose cache is in $work/NAME. Its clients use a socket of the file system, so that
# what goes over the loopback is between it and Sarsen.
start_casd() {
	(
		cd "$root/tmp"
		exec chroot "$root" /usr/bin/env -i --chdir=/tmp PATH=/usr/bin:/bin HOME=/tmp/home LC_ALL=C \
			buildbox-casd --remote=http://$grpc --instance=trees --proxy-instance=trees --enable-chunking-for-instance=trees \
			--cache-blob-chunks --bind="unix:/tmp/$1.sock" "/tmp/$1"
	) >"$work/$1.log" 2>&1 &
	casd=$!
	tries=0
	until [ -S "$work/$1.sock" ]; do
		kill -0 "$casd" 2>/dev/null || fail "$1 ended: $(cat "$work/$1.log")"
		tries=$((tries + 1))
		[ $tries -lt 300 ] || fail "$1 made no socket within 30 s: $(cat "$work/$1.log")"
		sleep 0.1
	done
	connected=$1
}

# run PROGRAM ARGUMENTS... runs a client of the casd that was started last.
run() {
	what=$1
	shift
	status=0
	timeout -k 5 300 chroot "$root" /usr/bin/env -i --chdir=/tmp PATH=/usr/bin:/bin HOME=/tmp/home LC_ALL=C \
		"$what" --remote="unix:/tmp/$connected.sock" --instance=trees "$@" >"$work/log" 2>&1 || status=$?
	[ $status = 0 ] && return
	cat "$work/log" >&2
	tail -n 30 "$work/$connected.log" >&2
	fail "$what: got status $status, want 0"
}

# wire prints how many bytes went over the loopback, both ways. (/sys would tell of another namespace.)
wire() { sed -n 's/^ *lo: *\([0-9]*\) .*/\1/p' /proc/net/dev; }

# at_most BYTES WHAT compares what went over the wire since $before.
at_most() {
	moved=$(($(wire) - before))
	say "$2: $moved bytes over the wire"
	[ $moved -le "$1" ] || fail "$2: $moved bytes over the wire, want at most $1"
}

upload() {
	before=$(wire)
	run casupload --use-localcas --output-digest-file="/tmp/$1.digest" "/tmp/$1"
	at_most "$2" "casupload $1"
}

download() {
	before=$(wire)
	run casdownload --use-localcas --root-digest="$(cat "$work/$1.digest")" --destination-dir="/tmp/$1.back"
	diff -r "$work/$1" "$work/$1.back" >&2 || fail "casdownload $1: other bytes came back"
	at_most "$2" "casdownload $1"
	rm -r "$work/$1.back"
}

# versions makes two files of 24 MB, of which the second has some bytes more in the middle.
versions() {
	head -c 24000000 /dev/urandom >"$work/one/large"
	{
		head -c 11000000 "$work/one/large"
		echo "put in"
		tail -c +11000001 "$work/one/large"
	} >"$work/two/large"
}

mkdir "$work/one" "$work/two"
versions
start_sarsen
start_casd first
upload one 30000000
upload two 6000000
crash $casd

# What a splice named is there after a crash.
crash "$sarsen"
start_sarsen
start_casd second
download one 30000000
download two 6000000

# What came whole, and nobody has cut, is cut by Sarsen.
versions
run_plain() {
	chroot "$root" /usr/bin/env -i --chdir=/tmp PATH=/usr/bin:/bin HOME=/tmp/home LC_ALL=C "$@" >"$work/log" 2>&1 ||
		fail "$1: $(cat "$work/log")"
}
for version in one two; do
	run_plain casupload --remote=http://$grpc --instance=trees --output-digest-file="/tmp/$version.digest" "/tmp/$version"
done
download one 30000000
download two 6000000
crash $casd

# So does our own client.
before=$(wire)
"$SARSEN" get "$(sha256sum <"$work/two/large" | cut -d ' ' -f 1)/24000007" --seed "$work/one/large" \
	--server grpc://$grpc --instance trees >"$work/got" || fail "sarsen get"
cmp "$work/two/large" "$work/got" || fail "sarsen get: other bytes came back"
at_most 6000000 "sarsen get --seed"

stop_sarsen
say "PASS"
