#!/bin/sh
# Installs Turborepo, Nx and Metro's cache from npm, once, and prints the folder that they are in.
. "$(dirname "$0")/lib.sh"

packages="turbo@2.11.11 nx@24.0.6 metro-cache@0.87.1"
root=$cache/npm-$(echo "$packages" | sha256sum | cut -c1-12)

command -v npm >/dev/null || fail "npm is missing; install Node.js"
exec 9>"$cache/npm.lock"
flock 9 # of two runs at once the second waits and then finds it
if [ ! -e "$root/.ready" ]; then
	say "making $root, once" >&2
	new=$root.new
	rm -rf --one-file-system "$new" # what an interrupted run left
	mkdir "$new"
	echo '{"private": true}' >"$new/package.json"
	# shellcheck disable=SC2086 # the list is to be split
	npm install --prefix "$new" --cache "$new/.npm" --fetch-retries 5 --no-fund --no-audit \
		--save-exact $packages >&2 || fail "npm could not install $packages"
	rm -rf "$new/.npm"
	touch "$new/.ready"
	rm -rf --one-file-system "$root"
	mv "$new" "$root"
fi
echo "$root"
