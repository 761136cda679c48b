#!/bin/sh
# Backs up over the Proxmox Backup Server protocol and restores: with a client of our own tests (plain, encrypted, upon the
# snapshot before, over a crash and a restart), and with tizbac's proxmoxbackupclient_go where SARSEN_TEST_PBS_CLIENT names its
# directorybackup program, which is built beside the project. Usage: SARSEN=/path/to/sarsen pbs.sh
. "$(dirname "$0")/lib.sh"

# Our own client is built before the network goes.
if [ -z "${SARSEN_TEST_PBS:-}" ]; then
	mkdir -p "$cache/pbs"
	SARSEN_TEST_PBS=$cache/pbs/pbsclient
	(cd "$here/../.." && go build -o "$SARSEN_TEST_PBS" ./test/clients/pbsclient) || fail "could not build pbsclient"
fi
export SARSEN_TEST_PBS
alone "$@"
mkdir -p "$cache/pbs-work"
scratch "$cache/pbs-work"
cd "$work"
pbs=127.0.0.1:8007
token=root@pam!ci
secret=secret-of-ci
cat >backups.yaml <<END
pbs:
  $token:
    secret: $secret
    may: {main: "read, backup, prune"}
END

start() {
	start_sarsen --worker-slots 0 --pbs $pbs --backups "$work/backups.yaml"
	fingerprint=$(sed -n 's/^Fingerprint: *//p' sarsen.out)
	[ -n "$fingerprint" ] || fail "no fingerprint in: $(cat sarsen.out)"
	"$SARSEN" status --server "http://$http" | grep -q "$fingerprint" || fail "'sarsen status' has another fingerprint"
}

# ours ARGUMENTS... runs our own client.
ours() { "$SARSEN_TEST_PBS" -server $pbs -fingerprint "$fingerprint" -token "$token:$secret" "$@" || fail "pbsclient $*"; }

# restored ID ARCHIVE FILE ARGUMENTS... wants the newest snapshot's archive to be FILE.
restored() {
	id=$1 archive=$2 file=$3
	shift 3
	ours -id "$id" "$@" restore "$archive" out
	cmp out "$file" || fail "$archive of $id is not what was backed up"
}

key=000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
head -c 20000000 /dev/urandom >file
head -c 9000000 /dev/urandom >image

start
first=$fingerprint
ours -id plain backup a.didx=file b.img.fidx=image
ours -id sealed -key $key backup a.didx=file b.img.fidx=image
restored plain a.didx file
restored sealed b.img.fidx image -key $key
sleep 1 # a snapshot's name is a second
cp file file1
printf 'something else' | dd of=file bs=1 seek=7000000 conv=notrunc status=none
ours -id plain backup a.didx=file b.img.fidx=image | tee said
sent=$(sed 's/sent \([0-9]*\) .*/\1/' said)
[ "$sent" -le 4 ] || fail "the second backup sent $sent chunks"
crash "$sarsen" 2>/dev/null
start
[ "$fingerprint" = "$first" ] || fail "the fingerprint changed over a crash"
restored plain a.didx file
restored plain a.didx file1 -time "$(ours list | sed -n 's,host/plain/,,p' | head -1)"
restored sealed a.didx file1 -key $key
stop_sarsen
say "our own client restores what it backed up, over a crash"

if [ -z "${SARSEN_TEST_PBS_CLIENT:-}" ]; then
	echo "*** $me: SKIPPED in part: SARSEN_TEST_PBS_CLIENT names no third-party client, Sarsen was NOT tried with one" >&2
	say "PASS"
	exit 0
fi
start

# theirs ID ARGUMENTS... runs the third-party client, whose exit status says nothing.
theirs() {
	id=$1
	shift
	HOME=$work/home "$SARSEN_TEST_PBS_CLIENT" -baseurl "https://$pbs" -certfingerprint "$fingerprint" -authid "$token" -secret "$secret" \
		-datastore main -backup-id "$id" "$@" >client.log 2>&1 || { cat client.log >&2; fail "the third-party client failed"; }
	tail -n 1 client.log
}

mkdir -p tree/deep
cp file1 tree/file
cp -r "$here" tree/deep/scripts
theirs directory -backupdir "$work/tree" -pxarout "$work/first.pxar"
restored directory backup.pxar.didx first.pxar
sleep 1
head -c 3000000 /dev/urandom >tree/more
theirs directory -backupdir "$work/tree" -pxarout "$work/second.pxar"
grep -q 'Reused [1-9]' client.log || fail "nothing was reused: $(tail -n 1 client.log)"
restored directory backup.pxar.didx second.pxar
ours -id directory take backup.pxar.didx/deep/scripts/pbs.sh out
cmp out "$here/pbs.sh" || fail "the server takes another file out of the archive"
restored directory backup.pxar.didx first.pxar -time "$(ours list | sed -n 's,host/directory/,,p' | head -1)"
theirs stream -backupstream log <file
restored stream log.didx file
sleep 1
echo "one more line" >>file
theirs stream -backupstream log <file
restored stream log.didx file
crash "$sarsen" 2>/dev/null
start
restored stream log.didx file
restored directory backup.pxar.didx second.pxar
stop_sarsen
say "what the third-party client backed up is restored byte by byte"
say "PASS"
