package explore

import (
	"runtime"
	"strings"
)

// maxTasks is how many tasks a schedule can have.
const maxTasks = 20

// asTask runs run at a call site of its own for each i, so that a goroutine's stack says which task it
// is. The runtime tells a goroutine's number only by printing the whole stack, which took a third of
// the time of a schedule.
//
//go:noinline
func asTask(i int, run func()) {
	switch i {
	case 0:
		run()
	case 1:
		run()
	case 2:
		run()
	case 3:
		run()
	case 4:
		run()
	case 5:
		run()
	case 6:
		run()
	case 7:
		run()
	case 8:
		run()
	case 9:
		run()
	case 10:
		run()
	case 11:
		run()
	case 12:
		run()
	case 13:
		run()
	case 14:
		run()
	case 15:
		run()
	case 16:
		run()
	case 17:
		run()
	case 18:
		run()
	case 19:
		run()
	default:
		panic("explore: too many tasks")
	}
}

// sites are where asTask calls from.
var sites = func() (sites [maxTasks]uintptr) {
	found := make(chan uintptr)
	for i := range sites {
		go asTask(i, func() {
			pcs := stack(make([]uintptr, maxDepth))
			for n, pc := range pcs {
				if frame, _ := runtime.CallersFrames(pcs[n:]).Next(); strings.HasSuffix(frame.Function, ".asTask") {
					found <- pc
					return
				}
			}
			found <- 0
		})
		sites[i] = <-found
	}
	return sites
}()

// maxDepth is how deep a goroutine may call before it comes to a point.
const maxDepth = 128

// stack returns the calling goroutine's return addresses, innermost first.
func stack(pcs []uintptr) []uintptr {
	n := runtime.Callers(0, pcs)
	if n == len(pcs) {
		panic("explore: the stack is too deep to see whose it is")
	}
	return pcs[:n]
}

// callSite returns the number of the task that the calling goroutine is, or -1.
func callSite() int {
	var buf [maxDepth]uintptr
	pcs := stack(buf[:])
	for n := len(pcs) - 1; n >= max(0, len(pcs)-outermost); n-- {
		for i, site := range sites {
			if site == pcs[n] {
				return i
			}
		}
	}
	return -1
}

// outermost is how many of the outermost frames may be asTask's: behind it are only the go statement's.
const outermost = 4
