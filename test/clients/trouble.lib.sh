# What goes wrong with a server while a client builds. It is sourced after lib.sh.
# shellcheck shell=sh disable=SC2154 # lib.sh and those who source this set the names

# A client script defines build SALT: it builds, with nothing left of any build before, something that SALT changes, and
# fails if the build does or if it gives what it should not. It sets hits and misses to what the client counted.

# hits_all WHAT runs build with a server that is well: first nothing is a hit, then everything.
hits_all() {
	build "$1"
	[ "$hits" = 0 ] || fail "$1, first build: got $hits hits, want 0"
	[ "$misses" -gt 0 ] || fail "$1, first build: got no misses"
	made=$misses
	build "$1"
	[ "$hits" = "$made" ] || fail "$1, second build: got $hits hits, want $made"
	[ "$misses" = 0 ] || fail "$1, second build: got $misses misses, want 0"
	say "$1: $made made, then $hits hits"
}

# restart FLAGS... starts Sarsen on a directory that is empty, and runs the command on_start, if there is one.
restart() {
	rm -rf "$work/data"
	start_sarsen "$@"
	${on_start:-}
}

# in_trouble runs build with a server that is full, failing, slow, and gone in the middle.
in_trouble() {
	when_full
	when_failing
	when_slow
	when_gone
}

# fill puts entries until the server takes no more; leases hold all of them.
fill() {
	head -c 2000000 /dev/urandom >"$work/ballast"
	n=0
	code=201
	while [ "$code" = 201 ]; do
		n=$((n + 1))
		echo $n >>"$work/ballast"
		code=$(curl -sS -o "$work/answer" -w '%{http_code}' -T "$work/ballast" "http://$http/maven/ballast/$n")
		[ $n -lt 200 ] || fail "200 entries of 2 MB fit into 80 MB"
	done
	[ "$code" = 507 ] || fail "filling the server: got status $code, want 507"
	# What is left of the room goes in small entries.
	head -c 20000 "$work/ballast" >"$work/pebble"
	code=201
	while [ "$code" = 201 ]; do
		n=$((n + 1))
		echo $n >>"$work/pebble"
		code=$(curl -sS -o "$work/answer" -w '%{http_code}' -T "$work/pebble" "http://$http/maven/ballast/$n")
		[ $n -lt 3000 ] || fail "3000 small entries fit into a full server"
	done
}

when_full() {
	restart --max-size 80MB --lease 1h
	build full-before
	made=$misses
	fill
	build full-before
	[ "$hits" = "$made" ] || fail "full: got $hits hits of what was there before, want $made"
	build full-after
	[ "$misses" = "$made" ] || fail "full: got $misses misses, want $made"
	refused=$(metric sarsen_store_refused_writes_total)
	[ "${refused:-0}" -gt 0 ] || fail "full: the server refused nothing"
	stop_sarsen
	say "full: builds, reads hits, $refused writes refused"
}

# when_failing has a disk under the server that fails each write: a file system in a file that can't grow.
when_failing() {
	mkdir -p "$work/outer" "$work/disk"
	mount -t tmpfs -o size=200m tmpfs "$work/outer"
	truncate -s 1G "$work/outer/image"
	mkfs.ext4 -q -m 0 -E lazy_itable_init=1 "$work/outer/image"
	mount -o loop "$work/outer/image" "$work/disk"
	: >"$work/sarsen.out"
	launch up --dir "$work/disk/data" --max-size 400MB --grpc "$grpc" --http "$http"
	${on_start:-}
	build failing-before
	made=$misses
	dd if=/dev/zero of="$work/outer/ballast" bs=1M 2>/dev/null || true # until the tmpfs is full
	build failing-before
	say "failing: $hits of $made hits of what was there before"
	build failing-after
	grep -q 'level=ERROR' "$work/sarsen.log" || fail "failing: the server had no trouble at all"
	crash "$sarsen" 2>/dev/null
	umount "$work/disk"
	umount -l "$work/outer" # the loop device is given back a moment later
	say "failing: builds"
}

# when_slow lets the server run for 50 ms of each 450.
when_slow() {
	restart
	(while kill -STOP "$sarsen" && sleep 0.4 && kill -CONT "$sarsen" && sleep 0.05; do :; done) 2>/dev/null &
	stutter=$!
	build slow
	say "slow: builds, $hits hits and $misses misses"
	build slow
	kill $stutter
	kill -CONT "$sarsen"
	say "slow: builds again, $hits hits and $misses misses"
	stop_sarsen
}

# requests prints how many requests of a dialect Sarsen answered.
requests() {
	curl -sS "http://$http/metrics" 2>/dev/null | awk -v r="route=\"$dialect\"" '/^sarsen_http_requests_total/ && index($1, r) { n += $2 } END { print n + 0 }'
}

# kill_at FILE WHAT kills the server once the client has made a file; WHAT says so if it never does.
kill_at() {
	tries=0
	until [ -e "$1" ]; do
		tries=$((tries + 1))
		[ $tries -lt 600 ] || fail "killed: $2"
		sleep 0.05
	done
	crash "$sarsen" 2>/dev/null
}

# when_gone kills the server once the client has asked for something.
when_gone() {
	restart
	build gone &
	building=$!
	tries=0
	while [ "$(requests)" -lt 3 ]; do
		kill -0 $building 2>/dev/null || fail "gone: the build ended before it asked for anything"
		tries=$((tries + 1))
		[ $tries -lt 600 ] || fail "gone: the client asked for nothing"
		sleep 0.05
	done
	crash "$sarsen" 2>/dev/null
	wait $building || fail "gone: the build failed"
	say "gone: builds when the server is killed in the middle"
	build gone
	say "gone: builds when there is no server"
}
