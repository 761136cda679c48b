#!/bin/sh
# BuildStream 2.8 builds elements on Sarsen's workers. What it runs sees its input root as /, which a worker with
# --chroot does. Usage: SARSEN=/path/to/sarsen buildstreamexec.sh
. "$(dirname "$0")/lib.sh"

root=${SARSEN_TEST_ROOT:-$("$here/sidroot.sh")}
export SARSEN_TEST_ROOT="$root"
alone "$@"
mount -t proc proc "$root/proc"
scratch "$root/tmp"
. "$here/buildstream/buildstream.lib.sh"

# make_project has a root with nothing but busybox in it, which is changed in place once, and elements that are built there.
make_project() {
	mkdir -p "$work/bst/elements" "$work/bst/root/bin" "$work/bst/root/etc"
	printf 'name: test\nmin-version: "2.0"\nelement-path: elements\n' >"$work/bst/project.conf"
	cp "$root/usr/bin/busybox" "$work/bst/root/bin/"
	for program in sh cat chown cp echo id ls mkdir rm sleep test touch tr; do ln -s busybox "$work/bst/root/bin/$program"; done
	echo shipped >"$work/bst/root/etc/release"
	cat >"$work/bst/elements/root.bst" <<-END
		kind: import
		sources:
		- kind: local
		  path: root
		public:
		  bst:
		    integration-commands:
		    - echo integrated >>/etc/release
		    - touch /tmp/litter /made-in-the-root
	END
	for element in made again; do
		cat >"$work/bst/elements/$element.bst" <<-END
			kind: manual
			build-depends:
			- root.bst
			variables:
			  strip-binaries: ""
			config:
			  install-commands:
			  - test ! -e /usr/bin/gcc
			  - test "\$(id -u)" = 0
			  - test -e /made-in-the-root
			  - test ! -e /tmp/litter
			  - test -c /dev/null && test -d /proc/self
			  - mkdir -p %{install-root}/nested
			  - echo $element | tr a-z A-Z > %{install-root}/nested/made
			  - cp -a /bin/busybox %{install-root}/program
			  - cp /etc/release %{install-root}/
			  - chown 7:7 %{install-root}/release
		END
	done
	cat >"$work/bst/elements/wrong.bst" <<-END
		kind: manual
		build-depends:
		- root.bst
		config:
		  install-commands:
		  - echo this goes wrong; test 1 = 2
	END
}

start_server
start_worker one --chroot
make_project
configure artifacts
cat >>"$work/bst.conf" <<-END
	remote-execution:
	  execution-service: {url: "http://$grpc"}
	  storage-service: {url: "http://$grpc"}
END

# builds NAME has the element built by a worker, and looks at all that comes back.
builds() {
	bst build "$1.bst"
	wanted 'Waiting for the remote build to complete' "build of $1.bst"
	bst artifact checkout --deps none --directory "/tmp/$1" "$1.bst"
	[ "$(cat "$work/$1/nested/made")" = "$(echo "$1" | tr a-z A-Z)" ] || fail "$1.bst: nested/made is not what was made"
	[ "$(cat "$work/$1/release")" = "$(printf 'shipped\nintegrated')" ] || fail "$1.bst: release is not as integrated"
	cmp "$work/$1/program" "$root/usr/bin/busybox" || fail "$1.bst: program is not busybox"
	[ -x "$work/$1/program" ] || fail "$1.bst: program is not executable"
	[ "$(ls -A "$work/$1")" = "$(printf 'nested\nprogram\nrelease')" ] || fail "$1.bst: got $(ls -A "$work/$1"), want three names"
}

builds made
say "built remotely and checked out"

if (bst build wrong.bst) 2>"$work/wrong.log"; then fail "wrong.bst: an element that fails was built"; fi
want 'this goes wrong' "$work/wrong.log" "wrong.bst"
say "an element that fails does so, with what it said"

rm -rf "$work/bstcache"
bst artifact pull made.bst
wanted 'Pulled artifact' pull

stop "$worker" "the worker"
stop_sarsen
start_sarsen --chroot
builds again
say "built by the worker of 'sarsen up'"

stop_sarsen
say "PASS"
