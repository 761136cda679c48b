#!/bin/sh
# Installs moon from npm, once, and prints the folder that it is in.
. "$(dirname "$0")/lib.sh"

version=2.5.5
root=$cache/moon-$version

command -v npm >/dev/null || fail "npm is missing; install Node.js"
exec 9>"$cache/moon.lock"
flock 9 # of two runs at once the second waits and then finds it
if [ ! -e "$root/.ready" ]; then
	say "making $root, once" >&2
	new=$root.new
	rm -rf --one-file-system "$new" # what an interrupted run left
	mkdir "$new"
	echo '{"private": true}' >"$new/package.json"
	npm install --prefix "$new" --cache "$new/.npm" --fetch-retries 5 --no-fund --no-audit \
		--save-exact "@moonrepo/cli@$version" >&2 || fail "npm could not install moon $version"
	rm -rf "$new/.npm"
	touch "$new/.ready"
	rm -rf --one-file-system "$root"
	mv "$new" "$root"
fi
echo "$root"
