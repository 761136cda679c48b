package bench

import "context"

// A Workload is one kind of load with fixed parameters, so that figures of different servers and days
// can stand side by side.
type Workload struct {
	Name  string
	About string // one line

	requests      int // in a full run
	shortRequests int // in a short one; 0 means a twentieth
	concurrency   int // requests under way at once
	connections   int
	http          bool // needs an HTTP cache

	// prepare lays down what n requests need and returns what makes request i of them.
	prepare func(ctx context.Context, s *session, n int) (call, error)
}

const (
	grpcConnections = 4 // as many as the gRPC workload with the most uses

	// The medium blobs: more requests than blobs, so that some are written that are there.
	mediumBlobs = 2048
	// The large ones: as many as one workload writes, and one that is tried first.
	largeBlobs = 9
)

// Workloads lists all workloads in the order in which they run.
var Workloads = []Workload{
	{Name: "batch-update", About: "BatchUpdateBlobs, 100 new blobs of 4 KiB a request, 8 concurrent",
		requests: 400, concurrency: 8, connections: 1, prepare: batchUpdate},
	{Name: "find-missing-present", About: "FindMissingBlobs, 1000 digests a request, all present, 8 concurrent",
		requests: 2000, concurrency: 8, connections: 1, prepare: findMissing(0)},
	{Name: "find-missing-half", About: "FindMissingBlobs, 1000 digests a request, half of them present, 8 concurrent",
		requests: 2000, concurrency: 8, connections: 1, prepare: findMissing(digestsPerRequest / 2)},
	{Name: "find-missing-missing", About: "FindMissingBlobs, 1000 digests a request, all missing, 8 concurrent",
		requests: 2000, concurrency: 8, connections: 1, prepare: findMissing(digestsPerRequest)},
	{Name: "batch-read", About: "BatchReadBlobs, 100 blobs of 4 KiB a request, 8 concurrent",
		requests: 800, concurrency: 8, connections: 1, prepare: batchRead},
	{Name: "bytestream-write-4k", About: "ByteStream.Write, new blobs of 4 KiB, 8 concurrent",
		requests: 20_000, concurrency: 8, connections: 1, prepare: bytestreamWrite(4*kib, 1<<20)},
	{Name: "bytestream-read-4k", About: "ByteStream.Read, blobs of 4 KiB, 8 concurrent",
		requests: 40_000, concurrency: 8, connections: 1, prepare: bytestreamRead(4*kib, 20_000)},
	{Name: "bytestream-write-128k", About: "ByteStream.Write, 2048 distinct blobs of 128 KiB, 32 concurrent over 4 connections",
		requests: 5000, concurrency: 32, connections: 4, prepare: bytestreamWrite(128*kib, mediumBlobs)},
	{Name: "bytestream-read-128k", About: "ByteStream.Read, 2048 distinct blobs of 128 KiB, 32 concurrent over 4 connections",
		requests: 5000, concurrency: 32, connections: 4, prepare: bytestreamRead(128*kib, mediumBlobs)},
	{Name: "bytestream-write-64m-c1", About: "ByteStream.Write, new blobs of 64 MiB, one at a time",
		requests: 8, shortRequests: 1, concurrency: 1, connections: 1, prepare: bytestreamWrite(64*mib, largeBlobs)},
	{Name: "bytestream-write-64m-c4", About: "ByteStream.Write, new blobs of 64 MiB, 4 concurrent",
		requests: 8, shortRequests: 4, concurrency: 4, connections: 1, prepare: bytestreamWrite(64*mib, largeBlobs)},
	{Name: "bytestream-read-64m-c1", About: "ByteStream.Read, blobs of 64 MiB, one at a time",
		requests: 8, shortRequests: 1, concurrency: 1, connections: 1, prepare: bytestreamRead(64*mib, largeBlobs)},
	{Name: "bytestream-read-64m-c4", About: "ByteStream.Read, blobs of 64 MiB, 4 concurrent",
		requests: 8, shortRequests: 4, concurrency: 4, connections: 1, prepare: bytestreamRead(64*mib, largeBlobs)},
	{Name: "action-update", About: "UpdateActionResult, new results with 2 output files and stdout, 8 concurrent",
		requests: 10_000, concurrency: 8, connections: 1, prepare: actionUpdate},
	{Name: "action-hit", About: "GetActionResult, results that are there, 8 concurrent",
		requests: 20_000, concurrency: 8, connections: 1, prepare: actionHit},
	{Name: "action-miss", About: "GetActionResult, actions that nobody stored, 8 concurrent",
		requests: 20_000, concurrency: 8, connections: 1, prepare: actionMiss},
	{Name: "gettree-c1", About: "GetTree, 500 directories of 10 files, one at a time",
		requests: 100, shortRequests: 10, concurrency: 1, connections: 1, prepare: getTree},
	{Name: "gettree-c8", About: "GetTree, 500 directories of 10 files, 8 concurrent",
		requests: 200, shortRequests: 16, concurrency: 8, connections: 1, prepare: getTree},
	{Name: "execute-c1", About: "Execute, /bin/echo without inputs, not cached, one at a time",
		requests: 500, shortRequests: 10, concurrency: 1, connections: 1, prepare: echo},
	{Name: "execute-c8", About: "Execute, /bin/echo without inputs, not cached, 8 concurrent",
		requests: 1000, shortRequests: 16, concurrency: 8, connections: 1, prepare: echo},
	{Name: "http-put-4k", About: "HTTP PUT /cas/, new blobs of 4 KiB, 8 concurrent on as many connections",
		requests: 10_000, concurrency: 8, connections: 8, http: true, prepare: httpPut},
	{Name: "http-get-4k", About: "HTTP GET /cas/, blobs of 4 KiB, 8 concurrent on as many connections",
		requests: 20_000, concurrency: 8, connections: 8, http: true, prepare: httpGet},
}
