// Package hitratio simulates eviction: how often the ring's second chance finds what is asked for,
// beside LRU, FIFO and S3-FIFO, and how many bytes it copies for that.
//
// Workloads are generated with fixed seeds, so every figure can be had again:
//
//	go test ./test/hitratio -run TestTable -v
//
// Invariants: on Zipf workloads, with scans or without, the ring finds at least what LRU finds, but for
// a fifth of a point, and in loops of builds not much less (TestAtLeastLRU); it copies no more than its
// rule allows (TestCopiesAreBounded); the cleaner's segment is enough (TestRingKeepsToItsCapacity).
//
// Concurrency: a simulation is one goroutine; rows run beside each other and share only their
// workload, which nobody changes.
package hitratio
