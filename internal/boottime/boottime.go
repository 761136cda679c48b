// Package boottime is a clock that goes on while the machine sleeps, and never goes back: what leases are measured with
// that other machines believe in. A virtual machine that its host stops may not notice; nothing inside it can.
//
// Concurrency: Now may be called from many goroutines at once.
package boottime

import "time"

// begin is where the clock begins that systems other than Linux use.
var begin = time.Now()
