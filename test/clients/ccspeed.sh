#!/bin/sh
# Times builds of zstd's library and of lua with gcc alone, `sarsen cc`, ccache and sccache, in turns, and prints one table:
# an empty cache, a full one, and an empty one before a server that has everything. Wall time is the build's, CPU is that of
# the build and of the cache's daemon together; a server is not counted. Not a part of any test.
# Usage, as root: SARSEN=/path/to/sarsen ccspeed.sh [ROUNDS [PROJECT...]]
. "$(dirname "$0")/lib.sh"

root=${SARSEN_TEST_ROOT:-$("$here/sidroot.sh")}
export SARSEN_TEST_ROOT="$root"

# lua_source gets the source of lua from the mirror that the root came from, once.
lua_source() {
	[ ! -e "$cache/lua/src" ] || return 0
	# shellcheck disable=SC2016 # the inner shell expands it
	unshare --mount --propagation private /bin/sh -euc '
		mount -t tmpfs tmpfs "$0/tmp"
		in="chroot $0 env -i --chdir=/tmp PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C apt-get -qq -o Dir::State::Lists=/tmp/lists -o Dir::Cache=/tmp/cache -o APT::Sandbox::User=root"
		mkdir -p "$0/tmp/lists/partial" "$0/tmp/cache/archives/partial"
		$in update
		$in source --tar-only lua5.4
		rm -rf "$1"
		mkdir "$1"
		tar -xf "$0"/tmp/lua5.4_*.orig.tar.* -C "$1" --strip-components 1' "$root" "$cache/lua" >&2 || fail "no source of lua"
}
[ "${SARSEN_TEST_INSIDE:-}" = 1 ] || lua_source
alone "$@"
mount -t proc proc "$root/proc"
scratch "$root/tmp"
rounds=${1:-5}
[ $# -eq 0 ] || shift
projects=${*:-zstd lua}

# All that a build starts is in one group of the kernel's, which counts its CPU time.
group=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)/sarsen-ccspeed-$(date +%N)
mkdir "$group" 2>/dev/null || fail "there is no cgroup2 file system to count CPU time with"
leave() {
	for pid in $(cat "$group/cgroup.procs"); do kill -KILL "$pid" 2>/dev/null || true; done
	sleep 0.2
	rmdir "$group"
	[ ! -s "$work/times" ] || table # of what there is, if somebody ends it early
}
trap leave EXIT

mkdir "$work/bin"
cp "$SARSEN" "$work/bin/sarsen"
cp -a "$root/src/zstd/lib" "$work/zstd"
cp -a "$cache/lua/src" "$work/lua"
echo 'int x;' >"$work/warm.c"
remote=''

# counted COMMAND... runs it in the root, and in the group, with the settings of all three.
counted() {
	# shellcheck disable=SC2016 # the inner shell expands it
	sh -c 'echo $$ >"$0/cgroup.procs"; exec "$@"' "$group" chroot "$root" /usr/bin/env -i --chdir="/tmp/$project" \
		PATH=/tmp/bin:/usr/bin:/bin HOME=/tmp/home LC_ALL=C \
		SARSEN_CC_DIR=/tmp/sarsen-cc ${remote:+"SARSEN_CC_REMOTE=grpc://$grpc"} \
		CCACHE_DIR=/tmp/ccache ${remote:+"CCACHE_REMOTE_STORAGE=http://$http/ccache/team"} \
		SCCACHE_DIR=/tmp/sccache SCCACHE_SERVER_UDS=/tmp/sccache.sock ${remote:+"SCCACHE_WEBDAV_ENDPOINT=http://$http/sccache/team"} \
		"$@"
}

# make_project removes what was built and builds it with a wrapper before the compiler.
make_project() {
	case $project in
	zstd)
		rm -rf "$work/zstd/obj" "$work/zstd/libzstd.a"
		counted make -s -j2 libzstd.a BUILD_DIR=obj CC="${1:+$1 }gcc" CFLAGS=-O0
		;;
	lua)
		rm -f "$work"/lua/*.o "$work"/lua/*.a
		counted make -s -j2 liblua.a CC="${1:+$1 }gcc" CFLAGS="-O2 -DLUA_USE_POSIX"
		;;
	esac >"$work/log" 2>&1 || fail "$project with '$1' does not build: $(cat "$work/log")"
}

cpu() { awk '$1 == "usage_usec" { print $2 }' "$group/cpu.stat"; }

# timed STATE TOOL WRAPPER builds and notes how long it took, in milliseconds.
timed() {
	cpu_before=$(cpu)
	before=$(date +%s%N)
	make_project "$3"
	after=$(date +%s%N)
	sleep 0.3 # what daemons do behind the build's back counts as well
	echo "$project $1 $2 $(((after - before) / 1000)) $(($(cpu) - cpu_before))" | awk '{ print $1, $2, $3, $4 / 1000, $5 / 1000 }' >>"$work/times"
}

# begin TOOL ends a daemon, empties the cache, and starts a daemon that knows the compiler.
begin() {
	end "$1"
	rm -rf "$work/sarsen-cc" "$work/ccache" "$work/sccache"
	case $1 in
	sarsen) counted sarsen cc gcc -c ../warm.c -o ../warm.o ;;
	ccache) counted ccache gcc -c ../warm.c -o ../warm.o ;;
	sccache) counted sccache --start-server && counted sccache gcc -c ../warm.c -o ../warm.o ;;
	esac >"$work/log" 2>&1 || fail "$1 does not begin: $(cat "$work/log")"
}

end() {
	case $1 in
	sarsen) counted sarsen cc --stop ;;
	sccache) counted sccache --stop-server ;;
	esac >"$work/log" 2>&1 || true
}

# all_hits TOOL WHAT fails unless every compile since begin, but for the first build's MISSES, was a hit.
all_hits() {
	case $1 in
	sarsen) got=$(counted sarsen cc --stats --json | awk '$1 == "\"miss\":" { on = 1 } on && $1 ~ /"(new|header|evicted|header_appears)":/ { n += $2 } $1 ~ /}/ { on = 0 } END { print n + 0 }') ;;
	ccache) got=$(counted ccache --print-stats | awk '$1 == "cache_miss" { print $2 }') ;;
	sccache) got=$(counted sccache --show-stats | awk '/^Cache misses  / { print $3 }') ;;
	esac
	[ "$got" -le "$3" ] || fail "$project, $1, $2: got $got misses, want at most $3"
}

wrapper_of() {
	case $1 in
	sarsen) echo 'sarsen cc' ;;
	*) echo "$1" ;;
	esac
}

# round has each state once, and builds that only hit, which are short, more often. They take turns too.
round() {
	remote=''
	timed empty gcc ''
	for tool in sarsen ccache sccache; do
		begin $tool
		timed empty $tool "$(wrapper_of $tool)"
	done
	sleep 2 # until files are old enough to be remembered
	for tool in sarsen ccache sccache; do make_project "$(wrapper_of $tool)"; done
	for _ in 1 2 3 4 5; do
		for tool in sarsen ccache sccache; do timed full $tool "$(wrapper_of $tool)"; done
	done
	for tool in sarsen ccache sccache; do
		all_hits $tool full $((objects + 1))
		end $tool
	done
	remote=yes
	for _ in 1 2 3; do
		for tool in sarsen ccache sccache; do
			begin $tool
			timed server $tool "$(wrapper_of $tool)"
			all_hits $tool server 1
			end $tool
		done
	done
}

# fill_server has each tool upload all that it makes.
fill_server() {
	remote=yes
	for tool in sarsen ccache sccache; do
		begin $tool
		make_project "$(wrapper_of $tool)"
		if [ $tool = sarsen ]; then counted sarsen cc --wait; else sleep 1; fi
		end $tool
	done
	objects=$(find "$work/$project" -name '*.o' | wc -l)
}

# table prints medians with the smallest and the largest, and the ratios of what followed each other in turn.
table() {
	awk '
		function sorted(from, to, n, i, j, x) {
			for (i = 1; i <= n; i++) {
				x = from[i]
				for (j = i; j > 1 && to[j - 1] > x; j--) to[j] = to[j - 1]
				to[j] = x
			}
		}
		function spread(from, n, form, s) {
			sorted(from, s, n)
			return sprintf(form " (" form "-" form ")", n % 2 ? s[(n + 1) / 2] : (s[n / 2] + s[n / 2 + 1]) / 2, s[1], s[n])
		}
		function row(k, other, col, n, i, v, w) {
			for (i = 1; i <= n[k]; i++) v[i] = value[k, col, i]
			if (other == "") return spread(v, n[k], "%.0f")
			for (i = 1; i <= n[k] && i <= n[other]; i++) w[i] = v[i] / value[other, col, i]
			return spread(w, i - 1, "%.2f")
		}
		{ k = $1 " " $2 " " $3; if (!n[k]++) keys[++known] = k; value[k, 4, n[k]] = $4; value[k, 5, n[k]] = $5 }
		END {
			split("ccache sccache gcc", tools, " ")
			print "| project | cache | tool | wall, ms | CPU, ms | wall / ccache | CPU / ccache | wall / sccache | CPU / sccache | wall / gcc | CPU / gcc |"
			print "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
			for (i = 1; i <= known; i++) {
				split(keys[i], part, " ")
				line = "| " part[1] " | " part[2] " | " part[3] " | " row(keys[i], "", 4, n) " | " row(keys[i], "", 5, n)
				for (j = 1; j <= 3; j++) {
					other = part[1] " " part[2] " " tools[j]
					for (col = 4; col <= 5; col++)
						line = line " | " (part[3] != "gcc" && tools[j] != part[3] && (other in n) ? row(keys[i], other, col, n) : "-")
				}
				print line " |"
			}
		}' "$work/times"
}

inside gcc --version | head -n 1
inside ccache --version | head -n 1
inside sccache --version
start_sarsen --worker-slots 0
for project in $projects; do
	fill_server
	say "$project: $objects objects"
	i=0
	while [ $i -lt "$rounds" ]; do
		i=$((i + 1))
		round
		say "round $i of $rounds: load $(cut -d' ' -f1 /proc/loadavg)" >&2
	done
done
stop_sarsen
