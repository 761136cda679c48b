#!/bin/sh
# curl does what the Maven build cache extension and Kura's clients do, which are not here themselves: it stores, reads,
# resumes, uploads in parts and cleans, over a restart too. Then the server is full, failing, slow and gone. Usage: SARSEN=/path/to/sarsen curl.sh
. "$(dirname "$0")/lib.sh"
need mkfs.ext4 e2fsprogs
alone "$@"
mkdir -p "$cache/curl"
scratch "$cache/curl"
cd "$work"
. "$here/trouble.lib.sh"
base=http://$http
query='account_handle=acme&project_handle=app'

# expect STATUS ARGUMENTS... runs curl and wants that status; the body is in answer.
expect() {
	wanted=$1
	shift
	got=$(curl -sS -o answer -w '%{http_code}' "$@") || fail "curl $*"
	[ "$got" = "$wanted" ] || fail "curl $*: got $got, want $wanted: $(cat answer)"
}

# same FILE wants the answer to be that file.
same() { cmp answer "$1" || fail "the answer is not $1"; }

head -c 3000000 /dev/urandom >large
head -c 1000 /dev/urandom >small
sum=$(sha256sum <large | cut -d' ' -f1)

maven=$base/maven/team/v1.1/org.example/app/0123456789abcdef
store() {
	expect 404 "$maven/buildinfo.xml"
	expect 201 -u user:secret -T large "$maven/app.jar"
	expect 201 -u user:secret -T small "$maven/buildinfo.xml"

	expect 404 "$base/api/cache/cas/0~id?$query"
	expect 204 -H "tuist-checksum-sha256: $sum" --data-binary @large "$base/api/cache/cas/0~id?$query"
	expect 204 -X PUT -d '{"cas_id":"0~key","entries":[{"value":"one"}]}' "$base/api/cache/keyvalue?$query"
	expect 201 -T large "$base/api/cache/gradle/0123?$query"
	expect 200 -T large "$base/api/cache/gradle/0123?$query"

	module="hash=0123&name=App.xcframework.zip&cache_category=builds&$query"
	expect 404 -I "$base/api/cache/module/App?$module"
	expect 200 -X POST "$base/api/cache/module/start?$module"
	upload=$(sed -n 's/.*"upload_id":"\([^"]*\)".*/\1/p' answer)
	split -b 1000000 large part-
	n=0
	for part in part-*; do
		n=$((n + 1))
		expect 204 --data-binary @"$part" "$base/api/cache/module/part?upload_id=$upload&part_number=$n&$query"
	done
	# The upload goes on after a crash.
	crash "$sarsen" 2>/dev/null
	start_sarsen
	expect 204 -d "{\"parts\":[1,2,3],\"checksum_sha256\":\"$sum\"}" "$base/api/cache/module/complete?upload_id=$upload&$query"

	expect 200 -T small "$base/v1/cache/123"
	expect 409 -T large "$base/v1/cache/123"
	expect 200 -T small "$base/api/metro/cache/abcd"
}

read_back() {
	expect 200 "$maven/app.jar"
	same large
	expect 200 "$maven/buildinfo.xml"
	same small
	for path in "cas/0~id?$query" "gradle/0123?$query" "module/App?$module"; do
		expect 200 "$base/api/cache/$path"
		same large
		head -c 1234567 large >resumed
		curl -sSf -C - -o resumed "$base/api/cache/$path"
		cmp resumed large || fail "$path: resumed, and got something else"
		expect 416 -r 3000000- "$base/api/cache/$path"
	done
	expect 200 "$base/api/cache/keyvalue/0~key?$query"
	[ "$(cat answer)" = '{"entries":[{"value":"one"}]}' ] || fail "got $(cat answer)"
	expect 204 -I "$base/api/cache/module/App?$module"
	expect 200 -X POST "$base/api/cache/module/start?$module"
	[ "$(cat answer)" = '{"upload_id":null}' ] || fail "got $(cat answer)"
	expect 200 "$base/v1/cache/123"
	same small
	expect 200 "$base/api/metro/cache/abcd"
	same small
}

start_sarsen
store
read_back
stop_sarsen
start_sarsen
read_back
say "what was stored is there, before and after a restart"

expect 204 -X DELETE "$base/api/cache/clean?$query"
for path in "cas/0~id?$query" "keyvalue/0~key?$query" "gradle/0123?$query" "module/App?$module"; do
	expect 404 "$base/api/cache/$path"
done
expect 204 -X DELETE "$base/maven/team/"
crash "$sarsen" 2>/dev/null
start_sarsen
expect 404 "$base/api/cache/cas/0~id?$query"
expect 404 "$maven/app.jar"
expect 200 "$base/v1/cache/123"
say "what was cleaned stays away after a crash, and the rest is there"
stop_sarsen

# build SALT does what Maven does: it makes what is not there, and a write that fails is a warning. What comes must be right.
dialect=maven
build() {
	hits=0 misses=0
	for i in 1 2 3 4 5 6 7 8; do
		{ yes "$1-$i" | head -c 400000; } >wanted 2>/dev/null
		code=$(curl -sS -m 10 -o answer -w '%{http_code}' "$base/maven/trouble/$1/$i/app.jar" 2>>curl.log) || true
		case $code in
		200) cmp answer wanted || fail "$1: the entry $i is another one"; hits=$((hits + 1)) ;;
		404 | 000) misses=$((misses + 1)); curl -sS -m 10 -o answer -T wanted "$base/maven/trouble/$1/$i/app.jar" 2>>curl.log || true ;;
		*) fail "$1: the entry $i: got status $code" ;;
		esac
	done
}
restart
hits_all maven
stop_sarsen
in_trouble
say "PASS"
