# What the scripts of `sarsen cc` share. It is sourced after lib.sh.
# shellcheck shell=sh disable=SC2154 # lib.sh and those who source this set the names

# The folder of the cache, its mode, its server, where the compilers are looked for, the folder below /tmp in which
# they run, and the one below which paths are made relative. The patience is such that a loaded machine changes no count.
cc=first mode=depend remote='' path=/tmp/bin:/usr/bin:/bin folder=project base='' patience=20s

# programs makes /tmp/bin/sarsen, and links to it that are named like compilers.
programs() {
	mkdir "$work/bin" "$work/links"
	cp "$SARSEN" "$work/bin/sarsen"
	for name in gcc clang clang++ clang-cl; do ln -s ../bin/sarsen "$work/links/$name"; done
}

# configured COMMAND... runs it in the folder with the settings above.
configured() {
	timeout -k 5 400 chroot "$root" /usr/bin/env -i "--chdir=/tmp/$folder" "PATH=$path" HOME=/tmp/home LC_ALL=C "SARSEN_CC_DIR=/tmp/$cc" \
		"SARSEN_CC_REMOTE=$remote" "SARSEN_CC_PATIENCE=$patience" "SARSEN_CC_MODE=$mode" "SARSEN_CC_BASE_DIR=$base" SARSEN_CC_MAX_SIZE=64MiB "$@"
}

# count GROUP [NAME] prints what the statistics have in a group, or under a name of it.
count() {
	awk -v group="\"$1\":" -v name="${2:+\"$2\":}" \
		'$2 ~ /^{/ { inside = $1 == group; next } inside && (name == "" || $1 == name) { n += $2 } END { print n + 0 }' "$work/stats"
}

# tally prints all that was counted, but for what becomes of misses and uploads, as "hit.direct=2 pass.link=1".
tally() {
	awk '$2 ~ /^{/ { group = $1; next } (group ~ /hit|miss|pass/ || $1 ~ /fetched/) && $2 + 0 { print group $1 "=" $2 + 0 }' "$work/stats" |
		tr -d '",' | sed 's/:/./; s/:=/=/' | sort | paste -sd ' '
}

# zero sets the statistics to zero, and stats reads them.
zero() { configured /tmp/bin/sarsen cc --zero || fail "the statistics can't be set to zero"; }
stats() { configured /tmp/bin/sarsen cc --stats --json >"$work/stats" || fail "no statistics"; }

# another FOLDER ends the daemon and begins a cache that is empty.
another() {
	configured /tmp/bin/sarsen cc --stop || fail "the daemon does not stop"
	rm -rf "${work:?}/$cc"
	cc=$1
}
