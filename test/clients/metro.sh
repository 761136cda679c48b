#!/bin/sh
# Metro's own cache (metro-cache 0.87) reads and writes through its HttpStore as Metro does: nobody awaits a write, so one
# that fails ends the process. What one process wrote another reads. Then Sarsen is full, failing and slow: each time the
# process goes on. Without a server the store fails by itself, as docs/clients.md says.
# Usage: SARSEN=/path/to/sarsen metro.sh
. "$(dirname "$0")/lib.sh"

root=${SARSEN_TEST_ROOT:-$("$here/npmroot.sh")}
export SARSEN_TEST_ROOT="$root"
command -v node >/dev/null || fail "node is missing"
need mkfs.ext4 e2fsprogs
alone "$@"
scratch "$root/work"
. "$here/trouble.lib.sh"

dialect=metro
keys=12
endpoint=http://$http/metro/team

cat >"$work/transform.js" <<'END'
const {Cache, HttpStore} = require('metro-cache');
const crypto = require('crypto');
const [, , endpoint, salt, keys] = process.argv;
const cache = new Cache([new HttpStore({endpoint, timeout: 8000})]);
let hits = 0;
(async () => {
  for (let i = 0; i < Number(keys); i++) {
    const key = crypto.createHash('sha1').update(salt + i).digest();
    const found = await cache.get(key);
    if (found != null && found.code !== salt + i) throw new Error('got ' + found.code);
    hits += found != null;
    // Bytes that don't compress, more of them than Sarsen keeps in memory.
    if (found == null) cache.set(key, {code: salt + i, map: crypto.randomBytes(300000).toString('hex')});
  }
  process.on('exit', () => console.log(hits));
})();
END

# build SALT looks up all keys, and writes those that are missing.
build() {
	status=0
	timeout -k 5 200 env -i PATH="$PATH" HOME="$work/home" NODE_PATH="$root/node_modules" \
		node "$work/transform.js" "$endpoint" "$1" $keys >"$work/hits" 2>"$work/log" || status=$?
	[ "${away:-}" != 1 ] || return $status
	[ $status = 0 ] || { cat "$work/log" >&2; fail "$1: got status $status, want 0"; }
	hits=$(cat "$work/hits")
	misses=$((keys - hits))
}

start_sarsen
hits_all namespace
stop_sarsen
start_sarsen
build namespace
[ "$hits" = $keys ] || fail "after a restart: got $hits hits, want $keys"
say "after a restart: $hits hits"
endpoint=http://$http/api/metro/cache
hits_all as-kura
stop_sarsen
endpoint=http://$http/metro/team

when_full
when_failing
when_slow

away=1
if build gone; then fail "gone: Metro's store goes on by itself; then docs/clients.md is wrong"; fi
want 'ECONNREFUSED' "$work/log" "gone"
say "gone: Metro's store fails by itself"
say "PASS"
