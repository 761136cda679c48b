#!/bin/sh
# The go command builds Sarsen itself with GOCACHEPROG="sarsen gocacheprog": a second machine, with nothing of its own,
# compiles nothing. Then a small module is built while the server is full, failing, slow, stopped, killed in the middle and gone, with
# damaged files, on a full disk, and by several go commands at once: each time it is built.
# Usage: SARSEN=/path/to/sarsen gocacheprog.sh
. "$(dirname "$0")/lib.sh"

command -v go >/dev/null || fail "go is missing"
need mkfs.ext4 e2fsprogs
PATH=$(dirname "$(command -v go)"):$PATH
modules=$(go env GOMODCACHE)
root=$cache/go
mkdir -p "$root/work"
alone "$@"
scratch "$root/work"
. "$here/trouble.lib.sh"
mkdir "$work/tmp"

# go_build NEAR FOLDER PACKAGE FLAGS... builds PACKAGE of the module in FOLDER with the local directory NEAR, and an
# empty cache of Go's own. It sets compiles to how many packages were compiled, and says to what gocacheprog says.
go_build() {
	near=$1 folder=$2 package=$3
	shift 3
	own=$work/own$tag
	log=$work/log$tag
	program=$work/program$tag
	rm -rf "$own" "$program"
	status=0
	(cd "$folder" && timeout -k 5 1200 env -i PATH="$PATH" HOME="$work/home" TMPDIR="$work/tmp" LC_ALL=C GOMODCACHE="$modules" GOPROXY=off \
		GOFLAGS=-mod=mod GOTOOLCHAIN=local GOTELEMETRY=off CGO_ENABLED=0 GOCACHE="$own" SARSEN_GOCACHE_DIR="$near" SARSEN_GOCACHE_VERBOSE=true \
		GOCACHEPROG="$SARSEN gocacheprog --server grpc://$grpc --timeout 1s $*" \
		go build -x -trimpath -buildvcs=false -o "$program" "$package") >"$log" 2>&1 || status=$?
	if [ $status != 0 ]; then
		tail -n 30 "$log" >&2
		fail "go build: got status $status, want 0"
	fi
	compiles=$(grep -c '/compile -o' "$log" || true)
	says=$(grep 'sarsen gocacheprog: ' "$log") || says=nothing
}

packages=12
tag= # what tells several at once apart

# module SALT writes a module of a few packages that SALT changes.
module() {
	salt=$1
	project=$work/module$tag
	rm -rf "$project"
	mkdir -p "$project"
	printf 'module example.com/salt\n\ngo 1.21\n' >"$project/go.mod"
	i=1
	{
		printf 'package main\n\nimport (\n\t"fmt"\n'
		while [ $i -le $packages ]; do
			mkdir "$project/p$i"
			printf 'package p%d\n\nconst Salt = "%s"\n\nfunc F(x int) int { return x + %d }\n' $i "$salt" $i >"$project/p$i/p.go"
			printf '\t"example.com/salt/p%d"\n' $i
			i=$((i + 1))
		done
		printf ')\n\nfunc main() {\n\tn := 0\n'
		i=1
		while [ $i -le $packages ]; do
			printf '\tn = p%d.F(n)\n' $i
			i=$((i + 1))
		done
		printf '\tfmt.Println(p1.Salt, n)\n}\n'
	} >"$project/main.go"
}

# made SALT NEAR FLAGS... writes the module, builds it and runs it.
made() {
	module "$1"
	near=$2
	shift 2
	go_build "$near" "$project" . "$@"
	got=$("$program")
	[ "$got" = "$salt $((packages * (packages + 1) / 2))" ] || fail "$salt: the program says '$got'"
}

# seeded NAME prints a new local directory that has the standard library and nothing else.
seeded() {
	rm -rf "$work/$1"
	cp -a "$work/seed" "$work/$1"
	echo "$work/$1"
}

# mine wants all packages of the module to have been compiled, and no others.
mine() { [ "$compiles" = $((packages + 1)) ] || fail "$1: got $compiles packages compiled, want $((packages + 1))"; }

repository=$(cd "$here/../.." && pwd)
start_sarsen --worker-slots 0
go_build "$work/first" "$repository" ./cmd/sarsen
[ "$compiles" -gt 200 ] || fail "first build: got $compiles packages compiled, want hundreds"
say "Sarsen, first: $compiles packages compiled; $says"
mv "$program" "$work/made"
go_build "$work/second" "$repository" ./cmd/sarsen
[ "$compiles" = 0 ] || fail "second build, on another machine: got $compiles packages compiled, want 0"
say "Sarsen, second, with nothing but the server: $says"
cmp "$program" "$work/made" || fail "the two programs differ"
go_build "$work/second" "$repository" ./cmd/sarsen --server none
[ "$compiles" = 0 ] || fail "third build, with nothing but the directory: got $compiles packages compiled, want 0"
say "Sarsen, third, with nothing but the directory: $says"
# An archive is the cached file itself, which the go command must not move away.
for time in first second; do
	go_build "$work/second" "$repository" ./digest --server none
	[ "$compiles" = 0 ] || fail "an archive, $time time: got $compiles packages compiled, want 0"
done
rm -rf "$work/first" "$work/second" "$work/made"

made seed "$work/seed"
mine seed
made seed "$work/empty"
[ "$compiles" = 0 ] || fail "seed, again: got $compiles packages compiled, want 0"

for i in 1 2 3 4; do
	(tag=$i && made several$((i / 2)) "$work/empty") &
	eval "pid$i=$!"
done
# shellcheck disable=SC2154 # eval sets them
for pid in $pid1 $pid2 $pid3 $pid4; do
	wait "$pid" || fail "several go commands at once"
done
say "several go commands at once on one directory: all build"

for file in "$work"/empty/o/*/*; do
	chmod u+w "$file"
	printf damage | dd of="$file" conv=notrunc status=none
done
made seed "$work/empty" --server none
say "all files damaged, no server: builds, $compiles packages compiled"
chmod u+w "$work"/empty/o/*/*
for file in "$work"/empty/o/*/*; do printf damage | dd of="$file" conv=notrunc status=none; done
made seed "$work/empty"
[ "$compiles" = 0 ] || fail "damaged files: got $compiles packages compiled, want 0, from the server"
say "all files damaged: $says"

mkdir "$work/small"
mount -t tmpfs -o size=3m tmpfs "$work/small"
made disk-full "$work/small"
say "disk full: builds; $says"
umount "$work/small"

kill -STOP "$sarsen"
made stopped "$(seeded stopped)"
mine stopped
kill -CONT "$sarsen"
say "server stopped: builds; $says"

# lookups prints how many actions the server was asked for.
lookups() {
	curl -sS "http://$http/metrics" 2>/dev/null | awk '/^sarsen_grpc_requests_total/ && /GetActionResult/ { n += $2 } END { print n + 0 }'
}

# The server is killed as soon as this build has asked it for something.
before=$(lookups)
made killed "$work/killed" &
building=$!
tries=0
until [ "$(lookups)" -gt $((before + 10)) ]; do
	kill -0 $building 2>/dev/null || fail "killed: the build ended before it asked for anything"
	tries=$((tries + 1))
	[ $tries -lt 1200 ] || fail "killed: the server was asked for nothing"
	sleep 0.02
done
crash "$sarsen" 2>/dev/null
wait $building || fail "killed: the build failed"
say "server killed in the middle: builds"
made gone "$(seeded gone)"
mine gone
say "no server: builds; $says"

rm -rf "$work/data"
start_sarsen --worker-slots 0 --max-size 80MB --lease 1h
n=0
while head -c 3000000 /dev/urandom >"$work/ballast" && "$SARSEN" put --server grpc://$grpc "$work/ballast" >/dev/null 2>&1; do
	n=$((n + 1))
	[ $n -lt 60 ] || fail "60 blobs of 3 MB fit into 80 MB"
done
while head -c 20000 /dev/urandom >"$work/ballast" && "$SARSEN" put --server grpc://$grpc "$work/ballast" >/dev/null 2>&1; do
	n=$((n + 1))
	[ $n -lt 1000 ] || fail "1000 small blobs fit into a full server"
done
made full "$(seeded full)"
mine full
refused=$(metric sarsen_store_refused_writes_total)
say "server full: builds, $refused writes refused; $says"
stop_sarsen

# build SALT is what trouble.lib.sh calls: another machine that has the standard library.
build() {
	made "$1" "$(seeded another)"
	misses=$compiles hits=$((packages + 1 - compiles))
}
when_failing
when_slow
say "PASS"
