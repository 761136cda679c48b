#!/bin/sh
# ccache 4.14 compiles a program of many files with Sarsen as its storage helper: started by ccache for http: and https:
# (before a proxy that ends TLS), and by hand for crsh:. Entries are those of ccache's own HTTP storage. Then the server is
# full, failing, slow, stopped and gone, and the helper killed: each time the program is built.
# Usage: SARSEN=/path/to/sarsen ccachestorage.sh
. "$(dirname "$0")/lib.sh"

root=${SARSEN_TEST_ROOT:-$("$here/sidroot.sh")}
export SARSEN_TEST_ROOT="$root"
need mkfs.ext4 e2fsprogs
need openssl openssl
alone "$@"
mount -t proc proc "$root/proc"
scratch "$root/tmp"
. "$here/trouble.lib.sh"
. "$here/compile.lib.sh"

dialect=ccache
mkdir "$work/bin"
cp "$SARSEN" "$work/bin/sarsen"
ln -s sarsen "$work/bin/ccache-storage-http"
ln -s sarsen "$work/bin/ccache-storage-https"
storage="http://$http/ccache/team"

# with_ccache COMMAND... runs it with ccache's configuration.
with_ccache() {
	inside PATH=/tmp/bin:/usr/bin:/bin CCACHE_DIR=/tmp/ccache "CCACHE_REMOTE_STORAGE=$storage" "$@"
}

# build SALT compiles all files with a ccache that has nothing and a helper that knows nothing, and counts what came from Sarsen.
build() {
	with_ccache ccache --stop-storage-helpers >"$work/stopped" 2>&1 || fail "$1: the helper can't be stopped: $(cat "$work/stopped")"
	rebuild "$1"
}

# rebuild SALT does so with the helper that there is.
rebuild() {
	rm -rf "$work/ccache"
	sources "$1"
	compile ccache PATH=/tmp/bin:/usr/bin:/bin SSL_CERT_FILE=/tmp/cert.pem CCACHE_DIR=/tmp/ccache "CCACHE_REMOTE_STORAGE=$storage" \
		CCACHE_NOINODECACHE=true
	with_ccache ccache --print-stats >"$work/stats"
	hits=$(awk '$1 == "direct_cache_hit" || $1 == "preprocessed_cache_hit" { n += $2 } END { print n + 0 }' "$work/stats")
	misses=$(awk '$1 == "cache_miss" { print $2 }' "$work/stats")
}

# helpers prints the processes that are helpers.
helpers() {
	for process in /proc/[0-9]*; do
		case $({ tr '\0' ' ' <"$process/cmdline"; } 2>/dev/null) in
		*/ccache-storage-http*) basename "$process" ;;
		esac
	done
}

start_sarsen --worker-slots 0
hits_all http
[ "$(helpers | wc -l)" = 1 ] || fail "http: got $(helpers | wc -l) helpers, want 1"
build http
[ "$hits" = $files ] || fail "http, another helper: got $hits hits, want $files"
with_ccache ccache --stop-storage-helpers
[ -z "$(helpers)" ] || fail "a helper that was stopped runs on"
storage="http://$http/ccache/team helper=_builtin_"
rebuild http
[ "$hits" = $files ] || fail "ccache's own HTTP storage after the helper: got $hits hits, want $files"
say "ccache's own HTTP storage finds what the helper stored: $hits hits"
rebuild builtin
storage="http://$http/ccache/team @layout=flat @bearer-token=secret"
build builtin
[ "$hits" = $files ] || fail "the helper after ccache's own HTTP storage: got $hits hits, want $files"

# TLS ends in a proxy of a few lines.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
	-addext subjectAltName=DNS:localhost -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
cat >"$work/proxy.py" <<'END'
import socket, ssl, sys, threading

def pump(a, b):
    try:
        while data := a.recv(65536):
            b.sendall(data)
        b.shutdown(socket.SHUT_WR)
    except OSError:
        pass

def serve(raw):
    try:
        near = context.wrap_socket(raw, server_side=True)
        far = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    except OSError:
        return raw.close()
    threading.Thread(target=pump, args=(far, near), daemon=True).start()
    pump(near, far)

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/tmp/cert.pem", "/tmp/key.pem")
listener = socket.create_server(("127.0.0.1", 8443))
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
END
: >"$work/proxy.out"
inside python3 /tmp/proxy.py "${http##*:}" >"$work/proxy.out" 2>"$work/proxy.log" &
ready $! "$work/proxy.out" "the TLS proxy"
storage="https://localhost:8443/ccache/tls"
hits_all https
storage="http://$http/ccache/tls"
build https
[ "$hits" = $files ] || fail "http after https: got $hits hits, want $files"

: >"$work/crsh.out"
inside /tmp/bin/sarsen ccache-storage --socket /tmp/crsh.sock "http://$http/ccache/crsh" >"$work/crsh.out" 2>"$work/crsh.log" &
crsh=$!
ready $crsh "$work/crsh.out" "sarsen ccache-storage"
storage="crsh:/tmp/crsh.sock"
rebuild crsh
[ "$misses" = $files ] || fail "crsh, first build: got $misses misses, want $files"
rebuild crsh
[ "$hits" = $files ] || fail "crsh, second build: got $hits hits, want $files"
say "crsh: $hits hits"
with_ccache ccache --stop-storage-helpers
wait $crsh || fail "sarsen ccache-storage: got status $? after ccache stopped it, want 0"
[ ! -e "$work/crsh.sock" ] || fail "the socket stays"
rebuild crsh-gone
say "crsh: builds when nobody listens"

# A helper that is killed leaves its socket. The next ccache starts another one, which takes its place.
storage="http://$http/ccache/team"
build killed &
building=$!
tries=0
until [ -n "$(helpers)" ] || [ $tries = 600 ]; do
	tries=$((tries + 1))
	sleep 0.05
done
kill -KILL $(helpers)
wait $building || fail "helper killed: the build failed"
rebuild killed
rebuild killed
[ "$hits" = $files ] || fail "after the helper was killed: got $hits hits, want $files"
say "helper killed in the middle: builds, and again with $hits hits"
storage="http://$http/ccache/team @nonsense=1"
rebuild nonsense
say "an attribute that nobody knows: builds"
storage="http://$http/ccache/team"

# The helper asks a server that hangs once, where each ccache by itself would wait for it.
with_ccache ccache --stop-storage-helpers
kill -STOP "$sarsen"
rebuild hanging
kill -CONT "$sarsen"
say "server stopped: builds"
stop_sarsen
in_trouble
say "PASS"
