#!/bin/sh
# Gradle 4.8 runs cacheable tasks with Sarsen as its HTTP build cache, with a password too: a second build brings all outputs
# back. Then Sarsen is full, failing, slow and gone: each time the tasks are run.
# Usage: SARSEN=/path/to/sarsen gradle.sh
. "$(dirname "$0")/lib.sh"

root=${SARSEN_TEST_ROOT:-$("$here/sidroot.sh")}
export SARSEN_TEST_ROOT="$root"
need mkfs.ext4 e2fsprogs
alone "$@"
mount -t proc proc "$root/proc"
scratch "$root/tmp"
. "$here/trouble.lib.sh"

dialect=gradle
tasks=4
url=http://$http/gradle/team/
login=

# build SALT runs all tasks in a project that is new, and counts how Gradle says that it came by their outputs.
build() {
	rm -rf "$work/project"
	mkdir -p "$work/project"
	cat >"$work/project/settings.gradle" <<-END
		rootProject.name = 'project'
		buildCache {
			local { enabled = false }
			remote(HttpBuildCache) {
				url = '$url'
				push = true
				$login
			}
		}
	END
	cat >"$work/project/build.gradle" <<-END
		@CacheableTask
		class Make extends DefaultTask {
			@Input String salt
			@OutputFile File out
			// Random bytes: no second build could make them again.
			@TaskAction void make() {
				byte[] random = new byte[400000]
				new Random().nextBytes(random)
				out.withOutputStream { it << (salt + '\n').bytes; it << random }
			}
		}
		task all
		for (int i = 0; i < $tasks; i++) {
			String name = "make" + i
			all.dependsOn(tasks.create(name, Make) { t ->
				t.salt = '$1-' + name
				t.out = file("build/" + name)
			})
		}
	END
	timeout -k 5 200 chroot "$root" /usr/bin/env -i --chdir=/tmp/project PATH=/usr/bin:/bin HOME=/tmp/home LC_ALL=C \
		gradle --build-cache --console=plain -g /tmp/home/gradle all >"$work/log" 2>&1 || {
		cat "$work/log" >&2
		fail "$1: the build failed"
	}
	for i in 0 1 2 3; do
		got=$(head -n 1 "$work/project/build/make$i")
		[ "$got" = "$1-make$i" ] || fail "$1: the output of make$i is '$got'"
	done
	hits=$(grep -c 'make.* FROM-CACHE' "$work/log" || true)
	misses=$((tasks - hits))
}

start_sarsen
hits_all plain
login="credentials { username = 'user'; password = 'secret~?' }"
hits_all basic
stop_sarsen
start_sarsen
build basic
[ "$hits" = $tasks ] || fail "after a restart: got $hits hits, want $tasks"
say "after a restart: $hits hits"
stop_sarsen

in_trouble
say "PASS"
