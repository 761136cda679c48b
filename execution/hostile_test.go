package execution

import (
	"testing"

	"google.golang.org/grpc/codes"
)

// manyOperations are two ends of one action that very many operations wait for.
var manyOperations = map[string]func(r *rig){
	"ended": func(r *rig) {
		for tk := range r.s.tasks {
			tk.fail(codes.Internal, "ended by the test")
		}
	},
	"left": func(r *rig) {
		for _, o := range r.s.operations {
			if !o.done {
				o.end(nil, nil)
			}
		}
	},
}

// TestManyOperations: operations of one action end together or one by one, whatever their priorities.
func TestManyOperations(t *testing.T) {
	for name, end := range manyOperations {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, r *rig) {
				k := r.action("a", nil)
				var ws []*Watch
				for i := range 60 {
					ws = append(ws, r.execute(k, as(string(rune('a'+i%7))), at(int32(i*7%5))))
				}
				for _, i := range []int{3, 59, 0, 30, 31} { // some go first
					if err := r.s.Cancel(ws[i].Name()); err != nil {
						t.Fatal(err)
					}
					r.check()
				}
				r.s.mu.Lock()
				end(r)
				r.s.mu.Unlock()
				for _, w := range ws {
					if a := r.now(w); !a.Done {
						t.Errorf("operation %s is not done", a.Name)
					}
				}
			})
		})
	}
}
