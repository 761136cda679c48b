# How BuildStream is run, for the scripts that do. It is sourced when $work is there.
# shellcheck shell=sh disable=SC2154 # its names are set by those who source it

log=$work/bst.log

# configure SECTIONS writes the configuration, in which every section names Sarsen as a server to push to.
configure() {
	echo "cachedir: /tmp/bstcache" >"$work/bst.conf"
	for section in $1; do
		cat >>"$work/bst.conf" <<-END
			$section:
			  override-project-caches: true
			  servers:
			  - url: http://$grpc
			    push: true
		END
	done
}

# bst ARGUMENTS... runs it on the project in $work/bst; what it says goes to $log.
bst() {
	status=0
	# There is no /dev/fuse in the root, with which it would stage otherwise.
	timeout -k 5 120 chroot "$root" /usr/bin/env -i --chdir=/tmp/bst PATH=/usr/bin:/bin HOME=/tmp/home LC_ALL=C.UTF-8 \
		BUILDBOX_STAGER=hardlink bst --no-colors --no-interactive -c /tmp/bst.conf "$@" >"$log" 2>&1 || status=$?
	[ $status = 0 ] && return
	tail -n 60 "$log" >&2
	fail "'bst $*' ended with status $status, want 0"
}

wanted() { want "$1" "$log" "$2"; }

unwanted() {
	if grep -- "$1" "$log" >&2; then fail "$2: got the line above, want none like it"; fi
}
