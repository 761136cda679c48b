package s3

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// A Policy says what a collection removes. Superfluous objects always go: second copies, superseded records and roots.
// What a root names, and what is leased, held or on its way anywhere, never does.
type Policy struct {
	MaxSize int64         // bytes in the bucket: the oldest go until there are no more; 0 is no limit
	All     bool          // everything else goes
	Grace   time.Duration // but for what is younger, by the server's clock
	DryRun  bool          // only say what would be proposed
	// Patience is how long to wait for other sessions' answers, and for the promises of those that ended. 0 is ten minutes.
	Patience time.Duration
	// Limit is how many blobs go at once; 0 is 50,000. Report.More says that there is more to do.
	Limit int
	// Progress, if set, is told now and then how far the listing is.
	Progress func(Report)
}

func (p Policy) limit() int {
	if p.Limit > 0 {
		return p.Limit
	}
	return 50_000
}

// A Report says what a collection found and did.
type Report struct {
	Epoch          int      `json:"epoch"`
	Objects        int64    `json:"objects"` // blobs and records
	Bytes          int64    `json:"bytes"`
	Roots          int      `json:"roots"`
	Kept           int64    `json:"kept"` // objects that roots name
	KeptBytes      int64    `json:"kept_bytes"`
	Candidates     int64    `json:"candidates"`
	CandidateBytes int64    `json:"candidate_bytes"`
	Refused        int      `json:"refused"` // by sessions, or named by a root since
	Deleted        int      `json:"deleted"` // of what this collection decided
	DeletedRoots   int      `json:"deleted_roots"`
	Sessions       []string `json:"sessions"` // that were asked
	More           bool     `json:"more"`
}

// ErrBusy says that another session collects, or one that may live did not answer.
var ErrBusy = errors.New("another server is busy")

// Collect removes from the bucket what the policy says, if every session agrees. It may be called by any session at any
// time; one at a time does it. A BlockedError says how long to wait for a session that ended.
func (s *Store) Collect(ctx context.Context, policy Policy) (Report, error) {
	l, err := s.enter()
	if err != nil {
		return Report{}, err
	}
	defer s.calls.Leave()
	select {
	case s.collecting <- struct{}{}:
	case <-ctx.Done():
		return Report{}, ctx.Err()
	}
	defer func() { <-s.collecting }()
	if policy.Patience == 0 {
		policy.Patience = 10 * time.Minute
	}
	until := s.clock() + policy.Patience
	for {
		c := &collection{Store: s, life: l, policy: policy, until: until}
		err := c.run(ctx)
		var blocked *BlockedError
		if !errors.As(err, &blocked) || s.clock() >= until {
			return c.report, errors.Join(err, s.regain(ctx, l))
		}
	}
}

// A collection is one run of the collector.
type collection struct {
	*Store
	life   *life
	policy Policy
	until  time.Duration // by our clock: how long to wait for others
	report Report

	register register
	etag     string // of that version of the register
}

func (c *collection) run(ctx context.Context) error {
	if c.policy.DryRun {
		return c.dry(ctx)
	}
	if err := c.beginEpoch(ctx); err != nil {
		return err
	}
	census, err := c.takeCensus(ctx, c.life)
	if err != nil {
		return err
	}
	if err := c.carryOut(ctx, census); err != nil {
		return err
	}
	m := newMarks()
	if err := c.mark(ctx, m); err != nil {
		return err
	}
	if err := c.tidyRoots(ctx, m); err != nil {
		return err
	}
	p, report, err := c.choose(ctx, c.life, c.policy, m, census.date)
	report.Epoch, report.DeletedRoots, report.Roots = c.register.Epoch, c.report.DeletedRoots, len(m.roots)
	c.report = report
	if err != nil || len(p.lines) == 0 {
		return errors.Join(err, m.err())
	}
	c.report.More = len(p.lines) >= c.policy.limit()
	agreed, err := c.ask(ctx, p, m, census)
	if err != nil {
		// If that fails, whoever collects next withdraws it.
		wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.heartbeat)
		defer cancel()
		return errors.Join(err, c.withdraw(wait))
	}
	return errors.Join(c.decide(ctx, agreed), m.err())
}

// dry says what would be proposed.
func (c *collection) dry(ctx context.Context) error {
	p, err := c.bucket.List(ctx, sessions, "")
	if err != nil {
		return err
	}
	m := newMarks()
	if err := c.mark(ctx, m); err != nil {
		return err
	}
	_, c.report, err = c.choose(ctx, c.life, c.policy, m, p.Date)
	c.report.Roots = len(m.roots)
	return errors.Join(err, m.err())
}

// beginEpoch makes this session the one that collects, unless another one that lives is at it. A proposal of one that has
// ended is withdrawn from then on: its verdict can't come any more.
func (c *collection) beginEpoch(ctx context.Context) (err error) {
	for {
		asked := c.life.ledger.Now()
		if c.register, c.etag, err = c.readRegister(ctx); err != nil {
			return err
		}
		if r := c.register; r.Proposal != "" && r.Session != c.life.id {
			census, err := c.takeCensus(ctx, c.life)
			if err != nil {
				return err
			}
			if slices.Contains(census.alive, r.Session) {
				return fmt.Errorf("%w: session %s is collecting", ErrBusy, r.Session)
			}
		}
		c.life.saw(c.register.Epoch, asked)
		c.register.Session, c.register.Proposal = c.life.id, ""
		c.register.Epoch++
		err = c.write(ctx)
		if !errors.Is(err, errOvertaken) {
			return err
		}
	}
}

// write changes the register, and heeds it as every session does.
func (c *collection) write(ctx context.Context) (err error) {
	c.etag, err = c.change(ctx, c.life, c.etag, &c.register)
	return err
}

// propose asks all sessions to let go of what p names, and returns where that is written.
func (c *collection) propose(ctx context.Context, p proposal) (key string, err error) {
	key = documentKey(proposals, c.register.Epoch, c.life.id)
	if err := c.writeLines(ctx, key, p.encode()); err != nil {
		return "", err
	}
	c.register.Proposal = key
	return key, c.write(ctx)
}

// withdraw takes the proposal back: sessions may adopt again what it names.
func (c *collection) withdraw(ctx context.Context) error {
	if c.register.Proposal == "" {
		return nil
	}
	c.register.Proposal = ""
	return c.write(ctx)
}

// ask waits until the promises of sessions that ended have run out, proposes, waits until every session that lives has
// answered, and returns what nobody refused and no root names. The roots are read again after the answers: a session's
// answer is the moment from which it can't keep what it let go of, so a root that names it was there before.
func (c *collection) ask(ctx context.Context, p proposal, m *marks, before census) (agreed proposal, err error) {
	if err := c.quiet(ctx); err != nil {
		return agreed, err
	}
	key, err := c.propose(ctx, p)
	if err != nil {
		return agreed, err
	}
	answered, err := c.await(ctx, key, before)
	if err != nil {
		return agreed, err
	}
	refused := map[string]bool{}
	for _, id := range answered {
		c.report.Sessions = append(c.report.Sessions, id)
		if id == c.life.id {
			a := c.life.answerTo(key)
			if a == nil {
				return agreed, errOvertaken // and it was heeded
			}
			for _, k := range a.refused {
				refused[k] = true
			}
			continue
		}
		lines, err := c.readLines(ctx, answerKey(key, id))
		if err != nil {
			return agreed, err
		}
		for k := range strings.SplitSeq(lines, "\n") {
			refused[k] = !mutant.RefusalsIgnored
		}
	}
	if !mutant.RootsOnce {
		if err := c.mark(ctx, m); err != nil {
			return agreed, err
		}
	}
	for _, l := range p.lines {
		i, _ := parseName(l.key)
		if refused[l.key] || l.survivor == "" && i.size > 0 && m.has(i.key) {
			c.report.Refused++
			continue
		}
		agreed.lines = append(agreed.lines, l)
	}
	return agreed, nil
}

// quiet waits until no promise of a session that ended stands. While a proposal is open, nobody can say of what it names
// whether it stays; so the long wait comes before it.
func (c *collection) quiet(ctx context.Context) error {
	for {
		now, err := c.takeCensus(ctx, c.life)
		if err != nil {
			return err
		}
		if err = now.blocked(nil); err == nil || c.clock() >= c.until {
			return err
		}
		if err := c.pause(ctx); err != nil {
			return err
		}
	}
}

// pause waits a little.
func (c *collection) pause(ctx context.Context) error {
	pause := time.NewTimer(c.heartbeat / 4)
	defer pause.Stop()
	select {
	case <-pause.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// await waits for the answers of all sessions that live now that the proposal is out: one that is not among them began
// later, and saw it. One that ends instead has to be waited for without a proposal.
func (c *collection) await(ctx context.Context, key string, before census) (answered []string, err error) {
	for {
		now := before
		if !mutant.OneListing {
			if now, err = c.takeCensus(ctx, c.life); err != nil {
				return nil, err
			}
		}
		given := map[string]bool{c.life.id: true}
		if _, err := bucket.All(ctx, c.bucket, answerKey(key, ""), func(page []bucket.Object) error {
			for _, o := range page {
				given[strings.TrimPrefix(o.Key, answerKey(key, ""))] = true
			}
			return nil
		}); err != nil {
			return nil, err
		}
		var wait error
		for _, id := range now.alive {
			if !given[id] {
				wait = fmt.Errorf("%w, or was killed: session %s has not answered", ErrBusy, id)
			}
		}
		if err := now.blocked(given); err != nil {
			return nil, err
		}
		if wait == nil {
			for id := range given {
				answered = append(answered, id)
			}
			slices.Sort(answered)
			return answered, nil
		}
		if c.clock() >= c.until {
			return nil, wait
		}
		if err := c.pause(ctx); err != nil {
			return nil, err
		}
	}
}

// decide writes the verdict and carries it out.
func (c *collection) decide(ctx context.Context, agreed proposal) error {
	if len(agreed.lines) == 0 {
		return c.withdraw(ctx)
	}
	v := verdict{documentKey(verdicts, c.register.Epoch, c.life.id), c.life.id}
	if mutant.DeleteFirst {
		if _, err := c.remove(ctx, agreed); err != nil {
			return err
		}
	}
	if err := c.writeLines(ctx, v.Key, agreed.encode()); err != nil {
		return errors.Join(err, c.withdraw(ctx))
	}
	c.register.Proposal = ""
	c.register.Verdicts = append(c.register.Verdicts, v)
	// COMMIT: what the verdict names is gone from here on.
	if err := c.write(ctx); err != nil {
		return err
	}
	n, err := c.remove(ctx, agreed)
	c.report.Deleted = n
	c.counts.deleted.Add(int64(n))
	return err
}
