#!/bin/sh
# buildbox 1.4: casupload and casdownload carry a tree through Sarsen, casdownload gets a snapshot, and recc
# finds a compilation there. Usage: SARSEN=/path/to/sarsen buildbox.sh
. "$(dirname "$0")/lib.sh"

root=${SARSEN_TEST_ROOT:-$("$here/sidroot.sh")}
export SARSEN_TEST_ROOT="$root"
alone "$@"
mount -t proc proc "$root/proc"
scratch "$root/tmp"

# run WHAT COMMAND... fails when the command does; what it says goes to $work/log.
run() {
	what=$1
	shift
	status=0
	timeout -k 5 120 chroot "$root" /usr/bin/env -i --chdir=/tmp PATH=/usr/bin:/bin HOME=/tmp/home LC_ALL=C \
		"$@" >"$work/log" 2>&1 || status=$?
	[ $status = 0 ] && return
	cat "$work/log" >&2
	fail "$what: got status $status, want 0"
}

# make_tree has one of everything that a tree can hold, and a blob on each side
# of 4 MiB, where buildbox goes over from batches to streams.
make_tree() {
	mkdir -p "$1/nested/deeply/down" "$1/empty-folder" "$1/with space"
	: >"$1/empty-file"
	echo hello >"$1/nested/hello.txt"
	echo hello >"$1/nested/deeply/same-bytes.txt"
	printf '#!/bin/sh\necho run\n' >"$1/nested/deeply/down/program"
	chmod 755 "$1/nested/deeply/down/program"
	head -c 3000000 /dev/urandom >"$1/with space/three megabytes"
	head -c 9000000 /dev/urandom >"$1/nine-megabytes"
	for i in $(seq 200); do echo "file $i" >"$1/nested/$i"; done
	ln -s nested/hello.txt "$1/link"
	ln -s nowhere "$1/nested/dangling"
}

# download NAME fetches the tree again and compares everything that REAPI keeps of it.
download() {
	run "casdownload $1" casdownload --remote=http://$grpc --instance=trees \
		--root-digest="$digest" --destination-dir="/tmp/$1"
	diff -r --no-dereference "$work/tree" "$work/$1" >&2 || fail "$1: uploaded (<) and downloaded (>) trees differ"
	for what in tree "$1"; do
		(cd "$work/$what" && find . -type f -perm -u+x | sort) >"$work/$what.executable"
		(cd "$work/$what" && find . -type d | sort) >"$work/$what.folders"
	done
	diff "$work/tree.executable" "$work/$1.executable" >&2 || fail "$1: executable files differ"
	diff "$work/tree.folders" "$work/$1.folders" >&2 || fail "$1: folders differ"
	say "casdownload: $1 is what was uploaded"
}

compile() {
	run "recc, $1" RECC_SERVER=http://$grpc RECC_INSTANCE=recc RECC_CACHE_ONLY=1 RECC_CACHE_UPLOAD_LOCAL_BUILD=1 \
		RECC_PROJECT_ROOT=/tmp RECC_LOG_LEVEL=info recc /usr/bin/gcc -O1 -c hello.c -o hello.o
	want "$2" "$work/log" "recc, $1"
	mv "$work/hello.o" "$work/hello.o.$1"
	say "recc: $1: $2"
}

start_sarsen

make_tree "$work/tree"
run casupload casupload --remote=http://$grpc --instance=trees --output-digest-file=/tmp/digest /tmp/tree
digest=$(cat "$work/digest")
say "casupload: $digest"
download once
stop_sarsen
start_sarsen
download after-a-restart

# A snapshot is a tree as casdownload knows it.
"$SARSEN" snapshot create tree "$work/tree" --server grpc://$grpc >"$work/log" || fail "snapshot create"
digest=$(sed -n '1s/.* //p' "$work/log")
say "snapshot: $digest"
download snapshot

printf '#include <stdio.h>\nint main(void) { return puts("hello") < 0; }\n' >"$work/hello.c"
compile first 'Action cache updated'
compile second 'Action Cache hit'
cmp "$work/hello.o.first" "$work/hello.o.second" || fail "recc: the object from the cache differs from the compiled one"

stop_sarsen
say "PASS"
