#!/bin/sh
# Unpacks restic of Debian sid and of bookworm, casync and desync, once, and prints the folder that they are in. Nothing is
# installed: they run in the root of sidroot.sh.
. "$(dirname "$0")/lib.sh"

packages="restic/sid casync/sid desync/sid libfuse2t64/sid restic/bookworm"
recipe=1 # raise it when the steps below change
root=$cache/backup-$(echo "$recipe $packages" | sha256sum | cut -c1-12)

exec 9>"$cache/backup.lock"
flock 9 # of two runs at once the second waits and then finds it
if [ ! -e "$root/.ready" ]; then
	need /usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring
	say "making $root, once" >&2
	new=$root.new
	rm -rf --one-file-system "$new" # what an interrupted run left
	mkdir -p "$new/apt/lists/partial" "$new/apt/cache/archives/partial" "$new/sid" "$new/bookworm"
	# shellcheck disable=SC2016 # apt-get expands it
	mirror=${SARSEN_TEST_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
		grep -v security | grep '/debian/*$' | head -n 1)}
	[ -n "$mirror" ] || fail "apt's configuration here names no Debian mirror; set SARSEN_TEST_MIRROR"
	for suite in sid bookworm; do
		echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
	done >"$new/apt/sources.list"
	# apt_get leaves the machine's own apt alone.
	apt_get() {
		apt-get -qq -o Dir::Etc::sourcelist="$new/apt/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$new/apt/lists" \
			-o Dir::Cache="$new/apt/cache" -o Acquire::Languages=none -o Acquire::Retries=5 -o Acquire::Check-Valid-Until=false \
			-o APT::Sandbox::User=root "$@" >&2
	}
	apt_get update || fail "the package lists of Debian could not be fetched"
	for package in $packages; do
		(cd "$new/${package#*/}" && apt_get download "$package" && for deb in *.deb; do dpkg -x "$deb" . && rm "$deb"; done) ||
			fail "$package could not be fetched"
	done
	rm -rf "$new/apt"
	touch "$new/.ready"
	rm -rf --one-file-system "$root"
	mv "$new" "$root"
fi
echo "$root"
