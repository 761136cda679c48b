#!/bin/sh
# Times restic's backup, check --read-data and restore of random bytes on Sarsen and, in turns, on restic's own rest-server, or
# without one on a local folder, and prints one table. Wall time is restic's, CPU is the server's. All is on one disk, the one
# of the test cache. Not a part of any test.
# Usage, as root: SARSEN=/path/to/sarsen [REST_SERVER=/path/to/rest-server] backupspeed.sh [ROUNDS [MEGABYTES]]
. "$(dirname "$0")/lib.sh"

root=${SARSEN_TEST_ROOT:-$("$here/sidroot.sh")}
tools=${SARSEN_TEST_BACKUP:-$("$here/backuproot.sh")}
export SARSEN_TEST_ROOT="$root" SARSEN_TEST_BACKUP="$tools"
alone "$@"
mount -t proc proc "$root/proc"
rounds=${1:-5}
megabytes=${2:-512}
disk=$(mktemp -d "$cache/backupspeed-XXXXXX")
leave() {
	kill -KILL "${server:-}" 2>/dev/null || true
	[ ! -s "$work/times" ] || table # of what there is, if somebody ends it early
	rm -rf --one-file-system "$disk"
}
trap leave EXIT
work=$root/tmp
mount --bind "$disk" "$work"
chmod 1777 "$work"
mkdir "$work/home" "$work/src"
cp "$tools/sid/usr/bin/restic" "$work/restic"
other=local
[ -z "${REST_SERVER:-}" ] || other=rest-server

# restic ARGUMENTS... runs it on $repository.
restic() {
	chroot "$root" /usr/bin/env -i PATH=/usr/bin:/bin HOME=/tmp/home LC_ALL=C RESTIC_PASSWORD=secret \
		RESTIC_CACHE_DIR=/tmp/cache RESTIC_REPOSITORY="$repository" /tmp/restic "$@" >"$work/log" 2>&1 || fail "restic $1 on $tool: $(cat "$work/log")"
}

# begin TOOL starts an empty server.
begin() {
	tool=$1
	rm -rf "$work/data"
	server=
	case $tool in
	sarsen)
		start_sarsen --worker-slots 0 --max-size "$((megabytes * 4 + 1000))MB"
		server=$sarsen
		repository=rest:http://$http/restic/speed/
		;;
	rest-server)
		"$REST_SERVER" --listen "$http" --path "$work/data" --no-auth >"$work/server.log" 2>&1 &
		server=$!
		until curl -sS -o /dev/null "http://$http/" 2>/dev/null; do sleep 0.1; done
		repository=rest:http://$http/speed/
		;;
	local) repository=/tmp/data ;;
	esac
	restic init
}

end() {
	[ -z "$server" ] || { kill -TERM "$server" && wait "$server" || true; }
	server=
}

# cpu prints what the server has used, in milliseconds.
cpu() {
	[ -n "$server" ] || { echo 0 && return; }
	sed 's/.*) //' "/proc/$server/stat" | awk -v hz="$(getconf CLK_TCK)" '{ print ($12 + $13) * 1000 / hz }'
}

# timed STEP ARGUMENTS... runs restic and notes how long it took, in milliseconds.
timed() {
	step=$1
	shift
	rm -rf "$work/cache"
	sync -f "$work"
	cpu_before=$(cpu)
	before=$(date +%s%N)
	restic "$@"
	after=$(date +%s%N)
	sync -f "$work"
	echo "$step $tool $(((after - before) / 1000000)) $cpu_before $(cpu)" | awk '{ print $1, $2, $3, $5 - $4 }' >>"$work/times"
}

# table prints medians with the smallest and the largest, and the ratios of what followed each other in turn.
table() {
	awk -v other="$other" '
		function spread(from, n, form, s, i, j, x) {
			for (i = 1; i <= n; i++) {
				x = from[i]
				for (j = i; j > 1 && s[j - 1] > x; j--) s[j] = s[j - 1]
				s[j] = x
			}
			return sprintf(form " (" form "-" form ")", n % 2 ? s[(n + 1) / 2] : (s[n / 2] + s[n / 2 + 1]) / 2, s[1], s[n])
		}
		function row(step, tool, col, i, v) {
			for (i = 1; i <= n[step, tool]; i++) v[i] = value[step, tool, col, i]
			return spread(v, i - 1, "%.0f")
		}
		function ratio(step, col, i, v) {
			for (i = 1; i <= n[step, "sarsen"] && i <= n[step, other]; i++) {
				if (!value[step, other, col, i]) return "-"
				v[i] = value[step, "sarsen", col, i] / value[step, other, col, i]
			}
			return spread(v, i - 1, "%.2f")
		}
		{ i = ++n[$1, $2]; value[$1, $2, 3, i] = $3; value[$1, $2, 4, i] = $4 }
		END {
			print "| step | sarsen, ms | " other ", ms | ratio | CPU of sarsen, ms | CPU of " other ", ms | ratio |"
			print "| --- | --- | --- | --- | --- | --- | --- |"
			split("backup check restore", steps, " ")
			for (k = 1; k <= 3; k++) {
				s = steps[k]
				if (n[s, "sarsen"] && n[s, other])
					print "| " s " | " row(s, "sarsen", 3) " | " row(s, other, 3) " | " ratio(s, 3) " | " row(s, "sarsen", 4) " | " row(s, other, 4) " | " ratio(s, 4) " |"
			}
		}' "$work/times"
}

chroot "$root" /tmp/restic version
i=0
while [ $i -lt "$rounds" ]; do
	i=$((i + 1))
	head -c "${megabytes}000000" /dev/urandom >"$work/src/large"
	turns="sarsen $other"
	[ $((i % 2)) = 1 ] || turns="$other sarsen"
	for tool in $turns; do
		begin "$tool"
		timed backup backup /tmp/src
		timed check check --read-data
		rm -rf "$work/out"
		timed restore restore latest --target /tmp/out
		cmp "$work/src/large" "$work/out/tmp/src/large" || fail "$tool restored other bytes"
		end
	done
	say "round $i of $rounds: load $(cut -d' ' -f1 /proc/loadavg)" >&2
done
