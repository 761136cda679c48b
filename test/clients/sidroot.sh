#!/bin/sh
# Makes a Debian sid root with the real clients in it (Bazel, buildbox, BuildStream, gcc, clang, CMake, Ninja,
# ccache, sccache, Gradle, Nix, the sources of zstd and Lua) and prints its folder. Two minutes and 2 GB the first
# time, nothing after that. Nobody writes into it later, so tests may share it.
#
# To remove it: rm -rf --one-file-system ~/.cache/sarsen-test
. "$(dirname "$0")/lib.sh"

# libblake3-0 is asked for by name because Debian's Bazel does not depend on it,
# yet knows no --digest_function=BLAKE3 without it.
packages="bazel-bootstrap buildbox buildstream bubblewrap busybox-static gcc g++ default-jdk-headless libblake3-0 make ca-certificates dpkg-dev ccache sccache gradle nix-bin curl clang cmake ninja-build"
recipe=2 # raise it when the steps below change
root=$cache/sid-$(echo "$recipe $packages" | sha256sum | cut -c1-12)

if [ -e "$root/.ready" ]; then
	echo "$root"
	exit
fi
need debootstrap debootstrap
need flock util-linux
need /usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring
enter -- "$0" "$@" # the lock comes after this: unshare itself would keep it

exec 9>"$cache/sid.lock"
flock 9 # of two runs at once the second waits and then finds the root
if [ -e "$root/.ready" ]; then
	echo "$root"
	exit
fi
new=$root.new
# mirror_here prints the mirror that apt uses here. It knows of none before its lists are there.
mirror_here() {
	# shellcheck disable=SC2016 # apt-get expands it
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
		grep -v security | grep '/debian/*$' | head -n 1
}
mirror=${SARSEN_TEST_MIRROR:-$(mirror_here)}
if [ -z "$mirror" ]; then
	apt-get -o Acquire::Retries=5 -qq update >&2
	mirror=$(mirror_here)
fi
[ -n "$mirror" ] || fail "apt's configuration here names no Debian mirror; set SARSEN_TEST_MIRROR"

# bootstrap starts from nothing each time: debootstrap can't resume.
bootstrap() {
	rm -rf --one-file-system "$new"
	debootstrap --variant=minbase sid "$new" "$mirror" >&2
}

# in_new runs a command in the root that is being made.
in_new() {
	chroot "$new" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C \
		DEBIAN_FRONTEND=noninteractive "$@"
}

# again COMMAND... gives a download three chances.
again() {
	for pause in 2 10 0; do
		"$@" && return
		say "failed, pausing $pause s: $*" >&2
		sleep $pause
	done
	fail "$* failed three times"
}

say "making $root, once" >&2
again bootstrap
# /proc is all that the packages need. /dev is never bound here: whoever removes
# this folder while it is would remove the machine's devices.
mount -t proc proc "$new/proc"
cat >"$new/etc/apt/apt.conf.d/99sarsen-test" <<-END
	Acquire::Retries "5";
	// A mirror may be a frozen one, past the date that its sid names.
	Acquire::Check-Valid-Until "false";
END
echo "deb-src $mirror sid main" >"$new/etc/apt/sources.list.d/source.list"
printf '#!/bin/sh\nexit 101\n' >"$new/usr/sbin/policy-rc.d" # no package starts a service
chmod 755 "$new/usr/sbin/policy-rc.d"
again in_new apt-get update -qq >&2
# shellcheck disable=SC2086 # the list is to be split
again in_new apt-get install -y -qq --no-install-recommends $packages >&2
# Where Debian's Bazel looks for it; without it a build with compression fails.
in_new ln -sfn "/usr/lib/$(in_new dpkg-architecture -qDEB_HOST_MULTIARCH)/libzstd-jni.so" /usr/share/bazel/libzstd-jni.so
again in_new sh -c 'rm -rf /src && mkdir /src && cd /src && apt-get source -qq zstd && mv libzstd-*/ zstd' >&2
# Only what Lua's makers wrote: Debian's patches want libtool.
again in_new sh -c 'rm -rf /src/lua && mkdir /src/lua && cd /src && apt-get source -qq --tar-only lua5.4 && tar -xf lua5.4_*.orig.tar.* -C lua --strip-components=1' >&2
# What clang-tools has besides is not needed.
in_new ln -sfn clang /usr/bin/clang-cl
in_new apt-get clean
rm -rf "$new"/var/lib/apt/lists/*
umount "$new/proc"
touch "$new/.ready"
rm -rf --one-file-system "$root"
mv "$new" "$root"
echo "$root"
