#!/bin/sh
# desync and casync keep a tree and a file in a chunk store of Sarsen and get them back, with SHA-512/256 and SHA-256, while
# the cache evicts, over a kill and a restart. Usage: SARSEN=/path/to/sarsen casync.sh
. "$(dirname "$0")/lib.sh"

root=${SARSEN_TEST_ROOT:-$("$here/sidroot.sh")}
tools=${SARSEN_TEST_BACKUP:-$("$here/backuproot.sh")}
export SARSEN_TEST_ROOT="$root" SARSEN_TEST_BACKUP="$tools"
alone "$@"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/dev" # casync wants some devices
for device in null:3 zero:5 random:8 urandom:9; do mknod -m 666 "$root/dev/${device%:*}" c 1 "${device#*:}"; done
scratch "$root/tmp"
cp -r "$tools/sid/usr" "$work/usr"

# tool NAME ARGUMENTS... runs a tool in the Debian root.
tool() {
	name=$1
	shift
	timeout -k 5 200 chroot "$root" /usr/bin/env -i PATH=/usr/bin:/bin HOME=/tmp/home LC_ALL=C \
		LD_LIBRARY_PATH=/tmp/usr/lib/x86_64-linux-gnu CASYNC_PROTOCOL_PATH=/tmp/usr/lib/casync/protocols "/tmp/usr/bin/$name" "$@"
}

# must NAME ARGUMENTS... wants it to succeed; what it says is in log.
must() { tool "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; fail "$*"; }; }

# mustnot NAME ARGUMENTS... wants it to fail.
mustnot() { if tool "$@" >"$work/log" 2>&1; then fail "$* succeeded"; fi; }

serve() { start_sarsen --worker-slots 0 --max-size 300MB --lease 1s --backups "$work/backups.yaml"; }

cat >"$work/backups.yaml" <<-END
	casync:
	  open: {}
	  sealed: {token: adding-token, append-only: true}
END
serve
mkdir -p "$work/tree/deep"
head -c 30000000 /dev/urandom >"$work/tree/large"
cp -r "$here" "$work/tree/deep/scripts"
head -c 20000000 /dev/urandom >"$work/image"
cat "$work/tree/large" >>"$work/image"

for digest in sha512-256 sha256; do
	base=http://$http/casync/open
	must desync --digest $digest make -s "$base/" "$base/$digest/image.caibx" /tmp/image
	say "$digest: desync stored a file, $(metric sarsen_store_roots) roots"
done
# desync 1.0.4 writes trees with SHA-512/256 only.
must desync tar -i -s "$base/" "$base/tree.caidx" /tmp/tree

# What nobody keeps goes round the ring, and the chunks stay.
for n in $(seq 1 100); do
	head -c 6000000 /dev/urandom >"$work/stone"
	curl -sS -o /dev/null -T "$work/stone" "http://$http/cas/$(sha256sum "$work/stone" | cut -d' ' -f1)"
done
evicted=$(metric sarsen_store_evicted_segments_total)
[ "$evicted" -gt 20 ] || fail "only $evicted segments were evicted"
crash "$sarsen"
serve

for digest in sha512-256 sha256; do
	rm -rf "$work/out.image"
	must desync --digest $digest extract -s "$base/" "$base/$digest/image.caibx" /tmp/out.image
	cmp "$work/image" "$work/out.image" || fail "$digest: desync extracted another file"
	must desync --digest $digest verify-index "$base/$digest/image.caibx" /tmp/image
	mustnot desync --digest $digest verify-index "$base/$digest/image.caibx" /tmp/tree/large
	# Every chunk of the index is in the store, and right.
	curl -sSf -o "$work/image.caibx" "$base/$digest/image.caibx"
	must desync --digest $digest chop -s "$base/" /tmp/image.caibx /tmp/image
	say "$digest: desync extracted it after $evicted segments were evicted, and a kill"
done
mkdir "$work/out"
must desync untar -i --no-same-owner -s "$base/" "$base/tree.caidx" /tmp/out
diff -r "$work/tree" "$work/out" || fail "desync extracted another tree"

# casync reads what desync stored, with a store that it calls default.castr.
rm -rf "$work/out" "$work/out.image"
must casync extract --store="$base/default.castr" "$base/sha512-256/image.caibx" /tmp/out.image
cmp "$work/image" "$work/out.image" || fail "casync extracted another file"
must casync extract --store="$base/default.castr" "$base/tree.caidx" /tmp/out
diff -r "$work/tree" "$work/out" || fail "casync extracted another tree"
# And desync reads what casync made, once it is copied.
must casync make --store=/tmp/local.castr /tmp/local.caibx /tmp/image
must desync cache -s /tmp/local.castr -c "$base/" /tmp/local.caibx
rm -rf "$work/out.image"
must desync extract -s "$base/" /tmp/local.caibx /tmp/out.image
cmp "$work/image" "$work/out.image" || fail "desync extracted another file of casync's"
say "casync and desync read each other's"

# A store with a token.
sealed=http://me:adding-token@$http/casync/sealed
mustnot desync make -s "http://$http/casync/sealed/" /tmp/x.caibx /tmp/image
mustnot desync make -s "http://me:wrong-token@$http/casync/sealed/" /tmp/x.caibx /tmp/image
must desync make -s "$sealed/" /tmp/x.caibx /tmp/image
rm -rf "$work/out.image"
must desync extract -s "$sealed/" /tmp/x.caibx /tmp/out.image
cmp "$work/image" "$work/out.image" || fail "desync extracted another file of a store with a token"
stop_sarsen
say OK
