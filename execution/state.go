package execution

import (
	"fmt"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
)

// A State is where a task is in its life.
type State int

// The states, in the order of a life without trouble.
const (
	none       State = iota // it is being made
	Checking                // the action cache and the inputs are asked for
	Queued                  // waits for a worker
	Assigned                // a worker is told, or about to be
	Executing               // the worker has begun: it stages the inputs or runs the command
	Uploading               // the worker uploads the outputs
	Completing              // the result is checked and put into the action cache
	Done
)

func (s State) String() string {
	return [...]string{"new", "checking", "queued", "assigned", "executing", "uploading", "completing", "done"}[s]
}

// next says which steps there are. The package comment draws them.
var next = [...][]State{
	none:       {Checking, Executing},
	Checking:   {Queued, Done},
	Queued:     {Assigned, Executing, Done},
	Assigned:   {Executing, Uploading, Completing, Queued, Done},
	Executing:  {Uploading, Completing, Queued, Done},
	Uploading:  {Completing, Queued, Done},
	Completing: {Queued, Done},
	Done:       {},
}

// stage returns what clients are told.
func (s State) stage() repb.ExecutionStage_Value {
	switch s {
	case Checking:
		return repb.ExecutionStage_CACHE_CHECK
	case Queued:
		return repb.ExecutionStage_QUEUED
	case Done:
		return repb.ExecutionStage_COMPLETED
	}
	return repb.ExecutionStage_EXECUTING
}

// onWorker reports whether a task in this state has an assignment.
func (s State) onWorker() bool { return s == Assigned || s == Executing || s == Uploading }

// strict makes a step that is not in the table a panic. Tests set it.
var strict bool

// to takes the task to another state. It reports whether it may be there: a task that is done stays done.
func (t *task) to(state State) bool {
	legal := false
	for _, n := range next[t.state] {
		legal = legal || n == state
	}
	if !legal {
		text := fmt.Sprintf("the task of action %s goes from %s to %s", t.key.Action, t.state, state)
		if strict {
			panic(text)
		}
		t.s.o.Log.Error("illegal step", "action", t.key.Action.String(), "from", t.state.String(), "to", state.String())
		if t.state == Done {
			return false
		}
	}
	t.state = state
	return true
}
