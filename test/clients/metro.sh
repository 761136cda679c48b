#!/bin/sh
# Metro's own cache (metro-cache 0.87) reads and writes through its HttpStore as Metro does: nobody awaits a write, so one
# that fails ends the process. What one process wrote another reads. Then Sarsen is full, failing and slow: each time the
# process goes on. Without a server, and when it is killed in the middle, that store fails by itself and HttpGetStore, which
# only reads, goes on, as docs/clients.md says.
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
store=HttpStore
half='' # after half of the keys the process makes this file, and goes on when it is gone
endpoint=http://$http/metro/team

cat >"$work/transform.js" <<'END'
const metro = require('metro-cache');
const fs = require('fs');
const crypto = require('crypto');
const [, , endpoint, salt, keys, store, half] = process.argv;
const cache = new metro.Cache([new metro[store]({endpoint, timeout: 8000})]);
let hits = 0;
(async () => {
  for (let i = 0; i < Number(keys); i++) {
    if (half && i === keys / 2) {
      fs.writeFileSync(half, '');
      while (fs.existsSync(half)) await new Promise((resolve) => setTimeout(resolve, 20));
    }
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
		node "$work/transform.js" "$endpoint" "$1" $keys "$store" "$half" >"$work/hits" 2>"$work/log" || status=$?
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

# killed SALT kills the server when half of the keys were looked up, and sets status to how the process ended.
killed() {
	half=$work/half
	build "$1" &
	building=$!
	kill_at "$half" "nothing is looked up"
	rm "$half"
	half=''
	status=0
	wait $building || status=$?
}

restart
build killed
away=1
killed killed
[ $status != 0 ] || fail "killed in the middle: HttpStore goes on by itself; then docs/clients.md is wrong"
if build gone; then fail "gone: HttpStore goes on by itself; then docs/clients.md is wrong"; fi
want 'ECONNREFUSED' "$work/log" "gone"
say "killed in the middle, and gone: HttpStore fails by itself"
away=0
restart
build killed
store=HttpGetStore
killed killed
[ $status = 0 ] || fail "killed in the middle: HttpGetStore ends with status $status"
hits=$(cat "$work/hits")
[ "$hits" = $((keys / 2)) ] || fail "killed in the middle: HttpGetStore got $hits hits, want half of $keys"
want 'Could not connect to the HTTP cache' "$work/log" "killed in the middle"
build gone
[ "$hits" = 0 ] || fail "gone: HttpGetStore got $hits hits"
say "killed in the middle, and gone: HttpGetStore warns and goes on"
say "PASS"
