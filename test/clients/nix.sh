#!/bin/sh
# Nix 2.34 builds derivations, copies them to Sarsen as a binary cache, and with an empty store gets all of them from
# there. Then Sarsen is full, failing, slow and gone: each time the derivations are built, and only the copy may fail.
# Usage: SARSEN=/path/to/sarsen nix.sh
. "$(dirname "$0")/lib.sh"

root=${SARSEN_TEST_ROOT:-$("$here/sidroot.sh")}
export SARSEN_TEST_ROOT="$root"
need mkfs.ext4 e2fsprogs
alone "$@"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/dev" # Nix wants some devices, and nothing of this machine's
for device in null:3 zero:5 random:8 urandom:9; do mknod -m 666 "$root/dev/${device%:*}" c 1 "${device#*:}"; done
mkdir "$root/dev/pts"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
scratch "$root/tmp"
. "$here/trouble.lib.sh"

dialect=nix
drvs=4
cache=http://$http/nix/team

nix() {
	timeout -k 5 200 chroot "$root" /usr/bin/env -i PATH=/usr/bin:/bin HOME=/tmp/home USER=root LC_ALL=C \
		NIX_CONFIG="experimental-features = nix-command
sandbox = false
build-users-group =
require-sigs = false
fallback = true
substituters = $cache
download-attempts = 2
connect-timeout = 2
narinfo-cache-negative-ttl = 0" \
		NIX_STORE_DIR=/tmp/nix/store NIX_STATE_DIR=/tmp/nix/var NIX_LOG_DIR=/tmp/nix/log NIX_CONF_DIR=/tmp/nix/etc \
		"$@"
}

# build SALT builds all in a store that is empty, and copies what was built to the cache.
build() {
	chmod -R u+w "$work/nix" 2>/dev/null || true
	rm -rf "$work/nix" "$work/home/.cache"
	mkdir -p "$work/nix/store" "$work/nix/etc"
	cat >"$work/all.nix" <<-END
		let make = n: derivation { name = "$1-\${n}"; system = builtins.currentSystem; builder = "/bin/sh";
			args = [ "-c" "echo \${n} >\$out; head -c 400000 /dev/urandom >>\$out" ]; PATH = "/usr/bin:/bin"; };
		in map make [ "a" "b" "c" "d" ]
	END
	nix nix-build --no-out-link /tmp/all.nix >"$work/paths" 2>"$work/log" || { cat "$work/log" >&2; fail "$1: the build failed"; }
	[ "$(wc -l <"$work/paths")" = $drvs ] || fail "$1: got $(cat "$work/paths")"
	hits=$(grep -c '^copying path .* from' "$work/log" || true)
	misses=$((drvs - hits))
	copied=yes
	# shellcheck disable=SC2046 # one argument a path
	nix nix copy --to "$cache?compression=none" $(cat "$work/paths") >>"$work/log" 2>&1 || copied=no
}

# Nix wants the cache to have the same store directory as its own.
begin() { printf 'StoreDir: /tmp/nix/store\n' | curl -sSf -T - "$cache/nix-cache-info"; }

start_sarsen
begin
hits_all plain
[ $copied = yes ] || { cat "$work/log" >&2; fail "nix copy failed"; }
stop_sarsen
start_sarsen
build plain
[ "$hits" = $drvs ] || fail "after a restart: got $hits hits, want $drvs"
say "after a restart: $hits hits"
stop_sarsen
on_start=begin
in_trouble
say "PASS"
