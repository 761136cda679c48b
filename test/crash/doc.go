// Package crash kills real servers and cuts the power under them, and asks afterwards for everything
// that they had acknowledged.
//
// It is black box: it speaks standard REAPI over gRPC and knows nothing of what is inside, so it runs
// against any server that a shell command starts:
//
//	go test -tags crash -count=1 -v -timeout 0 ./test/crash -run TestKill -args -n 2000
//	go test -tags crash -count=1 -v -timeout 0 ./test/crash -run TestPowerCut -args -n 200
//
// A load writes blobs of 100 B to 8 MiB, in batches and over ByteStream, and action results that name
// them, while askers find, get and read; before Sarsen it also puts, replaces and deletes files of a
// repository, which are roots. An oracle notes every yes with the time at which it was asked
// for, from which its lease counts at the least. TestKill sends SIGKILL to the server at a random
// instant, starts it again on the same directory and asks for all that is still leased. TestPowerCut
// keeps the directory on ext4, in an image that lies on XFS, clones that image at a random instant while
// the server goes on, mounts the clone, starts a second server on it and asks that one.
//
// # Invariants
//
//   - What counts as acknowledged was answered before the server died, or noted before the cut began.
//   - A yes is held against the server only until its lease ends, and only if the no came before that.
//   - Every blob that is read is hashed; every result that is read has its closure read.
//
// # Crashes
//
// TestMain moves into a mount namespace of its own, and servers die with the thread that started them,
// so even a killed test leaves no mount, no loop device and no process behind.
package crash
