package bench

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

const (
	// After so many errors a workload is given up: a broken server needs no more proof.
	maxErrors = 100

	// What a request under way may take after the workload's time is over.
	grace = 30 * time.Second
)

// A call makes request i and checks the answer.
type call func(ctx context.Context, w *worker, i int) (load, error)

// A load is what one request carried.
type load struct{ items, bytes int64 }

// A worker makes one request at a time. Its buffers are used again for the next.
type worker struct {
	conn    *grpc.ClientConn
	http    *httpConn
	answer  message
	scratch []byte

	latencies []time.Duration
	done      load
	errors    int
	firstErr  error
}

// measure prepares a workload, tries one request a connection, and then measures the others.
func (s *session) measure(ctx context.Context, w Workload, notify func(float64)) Result {
	result := Result{Name: w.Name, Status: OK, Concurrency: w.concurrency, Connections: w.connections}
	requests, limit := w.requests, defaultLimit
	if s.short {
		requests, limit = max(w.requests/20, 2*w.concurrency), shortLimit
		if w.shortRequests > 0 {
			requests = w.shortRequests
		}
	}
	notify(0)
	prepareCtx, cancel := context.WithTimeout(ctx, prepareLimit)
	defer cancel()
	// The first requests open the connections, show what the server lacks, and are not measured.
	tries := w.connections
	do, err := w.prepare(prepareCtx, s, tries+requests)
	workers := s.workers(w)
	defer func() {
		for _, worker := range workers {
			worker.http.close()
		}
	}()
	for i := 0; i < tries && err == nil; i++ {
		_, err = do(prepareCtx, workers[i%len(workers)], i)
	}
	if err != nil {
		result.Status, result.Reason = Failed, reason(err)
		if lacks(err) {
			result.Status = Unsupported
		}
		return result
	}
	// Leave no garbage of the preparation for the clock.
	runtime.GC()
	before, serverErr := s.usage()
	own := ownCPU()
	d := &drive{do: do, next: int64(tries), last: int64(tries + requests), limit: limit}
	elapsed := d.run(ctx, workers, func(done int64) { notify(float64(done-int64(tries)) / float64(requests)) })
	result.ClientCPU = ownCPU() - own
	result.fill(workers, elapsed)
	result.LimitReached = result.Requests+result.Errors < requests && result.Errors < maxErrors
	if s.pid != 0 {
		after, err := s.usage()
		if serverErr == nil && err == nil {
			result.Server = spent(before, after, result.Items)
		} else if result.Status == OK {
			result.Status, result.Reason = Failed, "the server's process is gone"
		}
	}
	return result
}

// workers returns the goroutines' state, spread over the workload's connections.
func (s *session) workers(w Workload) []*worker {
	list := make([]*worker, w.concurrency)
	for i := range list {
		list[i] = &worker{conn: s.conns[i%w.connections%len(s.conns)], http: &httpConn{target: s.http}}
	}
	return list
}

// A drive hands the requests of one workload to its workers.
type drive struct {
	do         call
	next, last int64 // the next request to hand out, and the first not to
	limit      time.Duration
}

// run makes the requests and returns how long that took. The context of a request that is under way
// when the time is over ends a little later, so that a server which hangs can't hold up the run.
func (d *drive) run(ctx context.Context, workers []*worker, notify func(done int64)) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, d.limit+grace)
	defer cancel()
	var next, failures atomic.Int64
	next.Store(d.next)
	stop := make(chan struct{})
	var group, watch sync.WaitGroup
	watch.Go(func() {
		ticker := time.NewTicker(200 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				notify(min(next.Load(), d.last))
			case <-stop:
				return
			}
		}
	})
	start := time.Now()
	for _, w := range workers {
		w.latencies = make([]time.Duration, 0, 2*int(d.last-d.next)/len(workers)+1)
		group.Go(func() {
			for now := start; now.Sub(start) < d.limit && ctx.Err() == nil && failures.Load() < maxErrors; {
				i := next.Add(1) - 1
				if i >= d.last {
					return
				}
				done, err := d.do(ctx, w, int(i))
				end := time.Now()
				if err != nil {
					failures.Add(1)
					w.errors++
					if w.firstErr == nil {
						w.firstErr = err
					}
				} else {
					w.latencies = append(w.latencies, end.Sub(now))
					w.done.items += done.items
					w.done.bytes += done.bytes
				}
				now = end
			}
		})
	}
	group.Wait()
	elapsed := time.Since(start)
	close(stop)
	watch.Wait()
	return elapsed
}

// fill works out the figures of what the workers did.
func (r *Result) fill(workers []*worker, elapsed time.Duration) {
	var latencies []time.Duration
	for _, w := range workers {
		latencies = append(latencies, w.latencies...)
		r.Items += w.done.items
		r.Bytes += w.done.bytes
		r.Errors += w.errors
		if w.firstErr != nil && r.Status == OK {
			r.Status, r.Reason = Failed, reason(w.firstErr)
		}
	}
	slices.Sort(latencies)
	r.Requests = len(latencies)
	r.P50, r.P95, r.P99 = percentile(latencies, 50), percentile(latencies, 95), percentile(latencies, 99)
	r.Max = percentile(latencies, 100)
	r.Seconds = elapsed.Seconds()
	if r.Seconds > 0 {
		r.RequestsPerSecond = float64(r.Requests) / r.Seconds
		r.ItemsPerSecond = float64(r.Items) / r.Seconds
		r.MegabytesPerSecond = float64(r.Bytes) / r.Seconds / 1e6
	}
}

// percentile returns, in milliseconds, the smallest latency that p percent of all do not exceed (the
// nearest rank), or 0 of none. The latencies are sorted.
func percentile(sorted []time.Duration, p int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	rank := (len(sorted)*p + 99) / 100
	return float64(sorted[max(rank, 1)-1]) / float64(time.Millisecond)
}

// reason returns err without gRPC's frame around it.
func reason(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Code().String() + ": " + s.Message()
	}
	return err.Error()
}
