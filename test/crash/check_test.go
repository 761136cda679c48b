//go:build crash && linux

package crash

import (
	"context"
	"fmt"
	"path"
	"strconv"
	"sync"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sarsen-build/sarsen/digest"
)

// askers is how many questions are on their way at once.
const askers = 4

// A tally counts what was asked for and what was not there.
type tally struct {
	checked int64 // blobs and results that were asked for, but for those that are gone and were free to go
	results int64 // acknowledged results that are gone or older than what was acknowledged
	files   int64 // files of a repository, likewise
	holes   int64 // results that came and name a blob that can't be read
	named   int64 // acknowledged blobs that are gone and that an acknowledged result names
	others  int64 // other acknowledged blobs that are gone
	wrong   int64 // blobs that came with other bytes
}

func (a *tally) add(b tally) {
	a.checked += b.checked
	a.results += b.results
	a.files += b.files
	a.holes += b.holes
	a.named += b.named
	a.others += b.others
	a.wrong += b.wrong
}

// A check asks one server for a sample.
type check struct {
	conn  *conn
	lease time.Duration
	tell  func(format string, args ...any) // gets a line for each loss

	// What to do with a yes, and with a loss; nil on a clone, of whose server the oracle knows nothing.
	oracle *oracle

	// A collection of a shared bucket may be open. What nobody decided yet may be called missing, and is UNAVAILABLE then, not
	// NOT_FOUND; a result is a miss.
	undecided bool

	mu    sync.Mutex
	tally tally
	err   error
}

// A question is about one blob, until the end of its lease.
type question struct {
	fact
	in   []*reply // results that came and name it
	gone bool
}

// A reply is a result that came.
type reply struct {
	action digest.Digest
	hole   bool
}

// ask asks for everything in s: results first, because each leases what it names, then what is missing,
// and then the bytes. It returns an error if the server could not be asked.
func (c *check) ask(ctx context.Context, s sample) error {
	questions := map[digest.Digest]*question{}
	for _, f := range s.blobs {
		questions[f.digest] = &question{fact: f}
	}
	replies := c.askResults(ctx, s.records, questions)
	c.askBlobs(ctx, questions)
	c.askRoots(ctx, s.roots, s.latest)
	for _, r := range replies {
		if r.hole {
			c.tally.holes++
		}
	}
	return c.err
}

// each calls f for every index below n, several at once, until an error.
func (c *check) each(n int, f func(i int) error) {
	var wg sync.WaitGroup
	indices := make(chan int, n)
	for i := range n {
		indices <- i
	}
	close(indices)
	for range min(askers, n) {
		wg.Go(func() {
			for i := range indices {
				err := f(i)
				c.mu.Lock()
				if c.err == nil {
					c.err = err
				}
				failed := c.err != nil
				c.mu.Unlock()
				if failed {
					return
				}
			}
		})
	}
	wg.Wait()
}

// askResults asks for results and adds what they name to questions.
func (c *check) askResults(ctx context.Context, records []record, questions map[digest.Digest]*question) []*reply {
	var replies []*reply
	c.each(len(records), func(i int) error {
		r := records[i]
		asked := time.Now()
		result, err := c.conn.result(ctx, r.action)
		answered := time.Now()
		if status.Code(err) == codes.NotFound {
			if !c.undecided && answered.Before(r.until) {
				c.lostResult(r, "not found")
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("get result %s: %w", r.action, err)
		}
		v, err := versionOf(result)
		if err != nil || v >= len(r.versions) {
			// A version newer than the sample is as good as those that it knows; its blobs are not known.
			return err
		}
		if v < r.acked && answered.Before(r.until) {
			c.lostResult(r, fmt.Sprintf("version %d came", v))
			return nil
		}
		if c.oracle != nil {
			c.oracle.resulted(r.action, v, asked)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.tally.checked++
		reply := &reply{action: r.action}
		replies = append(replies, reply)
		for _, d := range r.versions[v].closure {
			q := questions[d]
			if q == nil {
				q = &question{fact: fact{digest: d}}
				questions[d] = q
			}
			if until := asked.Add(c.lease); until.After(q.until) {
				q.until = until
			}
			q.in = append(q.in, reply)
		}
		return nil
	})
	return replies
}

func (c *check) lostResult(r record, how string) {
	c.mu.Lock()
	c.tally.results++
	c.tally.checked++
	c.mu.Unlock()
	c.tell("LOST result of action %s, version %d acknowledged, sent first %s ago: %s", r.action, r.acked, time.Since(r.born).Round(time.Millisecond), how)
	if c.oracle != nil {
		c.oracle.lost(r.action)
	}
}

// askBlobs asks what is missing, and reads the rest.
func (c *check) askBlobs(ctx context.Context, questions map[digest.Digest]*question) {
	all := make([]*question, 0, len(questions))
	for _, q := range questions {
		all = append(all, q)
	}
	const chunk = 1000
	c.each((len(all)+chunk-1)/chunk, func(i int) error {
		return c.find(ctx, all[i*chunk:min(len(all), (i+1)*chunk)])
	})
	if c.err != nil {
		return
	}
	var groups [][]*question
	size := int64(maxBatch)
	for _, q := range all {
		if q.gone {
			continue
		}
		if size += q.digest.Size + 100; size > maxBatch || len(groups[len(groups)-1]) >= 500 {
			groups, size = append(groups, nil), q.digest.Size
		}
		last := len(groups) - 1
		groups[last] = append(groups[last], q)
	}
	c.each(len(groups), func(i int) error { return c.read(ctx, groups[i]) })
}

// find asks which blobs are missing. Every other one is leased from now.
func (c *check) find(ctx context.Context, qs []*question) error {
	ds := make([]digest.Digest, len(qs))
	for i, q := range qs {
		ds[i] = q.digest
	}
	asked := time.Now()
	absent, err := c.conn.missing(ctx, ds)
	answered := time.Now()
	if err != nil {
		return fmt.Errorf("find missing blobs: %w", err)
	}
	due := int64(0)
	for _, q := range qs {
		if absent[q.digest] {
			q.gone = true
			if answered.Before(q.until) {
				due++
				if !c.undecided {
					c.lostBlob(q, false, "missing")
				} else if _, err := c.conn.read(ctx, q.digest); status.Code(err) == codes.NotFound && time.Now().Before(q.until) {
					c.lostBlob(q, false, "missing, and not found")
				}
			}
			continue
		}
		q.until = asked.Add(c.lease)
		due++
		if c.oracle != nil {
			c.oracle.yes(q.digest, asked)
		}
	}
	c.mu.Lock()
	c.tally.checked += due
	c.mu.Unlock()
	return nil
}

// read reads a batch of blobs, or one large one, and hashes them.
func (c *check) read(ctx context.Context, qs []*question) error {
	got := map[digest.Digest]digest.Digest{}
	if len(qs) == 1 && qs[0].digest.Size > maxBatch {
		d, err := c.conn.read(ctx, qs[0].digest)
		if err != nil && status.Code(err) != codes.NotFound {
			return fmt.Errorf("read %s: %w", qs[0].digest, err)
		}
		if err == nil {
			got[qs[0].digest] = d
		}
	} else {
		ds := make([]digest.Digest, len(qs))
		for i, q := range qs {
			ds[i] = q.digest
		}
		found, err := c.conn.readBatch(ctx, ds)
		if err != nil {
			return fmt.Errorf("read a batch of %d: %w", len(ds), err)
		}
		for d, data := range found {
			got[d] = digest.SHA256.Of(data)
		}
	}
	answered := time.Now()
	for _, q := range qs {
		d, ok := got[q.digest]
		switch {
		case !ok && answered.Before(q.until):
			c.lostBlob(q, false, "found and then not read")
		case ok && d != q.digest:
			c.lostBlob(q, true, "wrong bytes, they are "+d.String())
		}
	}
	return nil
}

func (c *check) lostBlob(q *question, wrong bool, how string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range q.in {
		r.hole = true
	}
	switch {
	case wrong:
		c.tally.wrong++
	case q.named:
		c.tally.named++
	case !q.born.IsZero():
		c.tally.others++
	}
	if c.oracle != nil || wrong || q.named || len(q.in) > 0 {
		c.tell("LOST blob %s, named by a result: %v, sent first %s ago: %s", q.digest, q.named || len(q.in) > 0, time.Since(q.born).Round(time.Millisecond), how)
	}
	if c.oracle != nil {
		c.oracle.lost(q.digest)
	}
}

// A result says its version in the path of its first output, which every server keeps as it is.
func outputPath(version, i int) string { return fmt.Sprintf("v%d/%d", version, i) }

func versionOf(result *repb.ActionResult) (int, error) {
	if len(result.OutputFiles) == 0 {
		return 0, fmt.Errorf("a result came back without its outputs: %v", result)
	}
	dir := path.Dir(result.OutputFiles[0].Path)
	v, err := strconv.Atoi(dir[1:])
	if err != nil {
		return 0, fmt.Errorf("a result came back with the path %q", result.OutputFiles[0].Path)
	}
	return v, nil
}
