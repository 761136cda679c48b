#!/bin/sh
# Builds versitygw, a real S3 server, once, as internal/versitygw does, and prints where it is.
. "$(dirname "$0")/lib.sh"

module=$here/../../tools/versitygw
binary=$cache/versitygw-$(sha256sum "$module/go.mod" | cut -c1-16)

exec 9>"$cache/versitygw.lock"
flock 9 # of two runs at once the second waits and then finds it
if [ ! -e "$binary" ]; then
	(cd "$module" && go build -trimpath -ldflags='-s -w' -o "$binary.new" github.com/versity/versitygw/cmd/versitygw) >&2 || fail "versitygw could not be built"
	mv "$binary.new" "$binary"
fi
echo "$binary"
