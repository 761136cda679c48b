package execution

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/action"
)

// find returns an operation, under the lock.
func (s *Scheduler) find(name string) (*operation, error) {
	if s.closed {
		return nil, ErrClosed
	}
	o := s.operations[name]
	if o == nil {
		return nil, fmt.Errorf("%w: operation %q; execute the action again", ErrNotFound, name)
	}
	return o, nil
}

// Wait follows an operation, as the Watch of its Execute does.
func (s *Scheduler) Wait(name string) (*Watch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, err := s.find(name)
	if err != nil {
		return nil, err
	}
	return o.watch(), nil
}

// Get returns an operation as it is. Asking counts as waiting: the operation lives for another LeaveGrace.
func (s *Scheduler) Get(name string) (*longrunningpb.Operation, error) {
	s.mu.Lock()
	o, err := s.find(name)
	if err != nil {
		s.mu.Unlock()
		return nil, err
	}
	o.await()
	v := o.view()
	s.mu.Unlock()
	return v.proto()
}

// Key returns which action an operation is about.
func (s *Scheduler) Key(name string) (action.Key, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, err := s.find(name)
	if err != nil {
		return action.Key{}, err
	}
	return o.task.key, nil
}

// Cancel ends an operation with CANCELLED. One that is done stays as it is. The action goes on if another operation
// waits for it.
func (s *Scheduler) Cancel(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, err := s.find(name)
	if err == nil && !o.done {
		o.end(nil, &spb.Status{Code: int32(codes.Canceled), Message: "cancelled by a client"})
	}
	return err
}

// maxPage is how many operations List returns at once.
const maxPage = 1000

// List returns the operations whose names begin with prefix and of which match, if it is set, is true of the action:
// in the order in which they were made, up to size (0: as many as fit into a message), from where token says ("": from the
// first). The next token is "" at the end. What comes and goes between pages moves nothing else.
func (s *Scheduler) List(prefix string, match func(action.Key) bool, size int, token string) (ops []*longrunningpb.Operation, nextToken string, err error) {
	if size <= 0 || size > maxPage {
		size = maxPage
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, "", ErrClosed
	}
	var views []view
	for name, o := range s.operations {
		if name > token && strings.HasPrefix(name, prefix) && (match == nil || match(o.task.key)) {
			views = append(views, o.view())
		}
	}
	s.mu.Unlock()
	slices.SortFunc(views, func(a, b view) int { return strings.Compare(a.name, b.name) })
	if len(views) > size {
		views = views[:size]
		nextToken = views[size-1].name
	}
	for i, left := 0, maxResponse; i < len(views); i++ {
		op, err := views[i].proto()
		if err != nil {
			return nil, "", err
		}
		if left -= proto.Size(op); left < 0 && i > 0 {
			return ops, views[i-1].name, nil
		}
		ops = append(ops, op)
	}
	return ops, nextToken, nil
}

// WorkerInfo is what is known of a worker.
type WorkerInfo struct {
	Name       string
	Session    string
	Properties []*repb.Platform_Property
	Slots      int
	Connected  bool
	Draining   bool
	Seen       time.Time // when it said something last
	Load       Load
	Running    []RunningInfo // in the order in which they came
}

// RunningInfo is what is known of an assignment.
type RunningInfo struct {
	ID         string
	Key        action.Key
	State      State // of the action; Done if the worker is only to stop it
	Since      time.Time
	Attempt    int
	Command    []string // its arguments, if they are known
	Operations []string // who waits for it
}

// Workers returns all workers, in the order in which they came.
func (s *Scheduler) Workers() (infos []WorkerInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.workers {
		info := WorkerInfo{
			Name: w.name, Session: w.id, Properties: w.properties, Slots: w.slots, Connected: w.session != nil,
			Draining: w.draining, Seen: w.seen, Load: w.load,
		}
		for _, a := range w.held() {
			r := RunningInfo{ID: a.id, Key: a.task.key, State: a.task.state, Since: a.began, Attempt: a.task.attempts, Command: a.task.command.GetArguments()}
			if a.task.on != a {
				r.State = Done
			}
			for _, o := range a.task.operations {
				r.Operations = append(r.Operations, o.name)
			}
			info.Running = append(info.Running, r)
		}
		infos = append(infos, info)
	}
	return infos
}

// Stats counts what is there.
type Stats struct {
	Checking, Queued, Running, Completing int // tasks
	Operations                            int // also done ones
	Workers, Slots                        int // of workers that are connected
}

// Stats returns the numbers of now.
func (s *Scheduler) Stats() (n Stats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for t := range s.tasks {
		switch {
		case t.state == Checking:
			n.Checking++
		case t.state == Queued:
			n.Queued++
		case t.state.onWorker():
			n.Running++
		default:
			n.Completing++
		}
	}
	n.Operations = len(s.operations)
	for _, w := range s.workers {
		if w.session != nil {
			n.Workers++
			n.Slots += w.slots
		}
	}
	return n
}
