#!/bin/sh
# Usage: roundtrip.sh ZSTD LEVEL. Compresses zstd's own source with the program that was built of it, and
# wants the same bytes back.
set -eu
cd "${TEST_SRCDIR:?}/${TEST_WORKSPACE:?}"
for file in lib/compress/*.c; do
	"$1" -q "-$2" -c "$file" >"${TEST_TMPDIR:?}/small"
	[ "$(wc -c <"$TEST_TMPDIR/small")" -lt "$(wc -c <"$file")" ] || {
		echo "$file did not get smaller"
		exit 1
	}
	"$1" -q -d -c "$TEST_TMPDIR/small" | cmp - "$file"
done
echo "level $2: $(ls lib/compress/*.c | wc -l) files"
