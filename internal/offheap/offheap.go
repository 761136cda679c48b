// Package offheap gives memory that Go's collector does not know of, for tables so large that letting
// them grow to twice their size before they are looked at would cost gigabytes. It must not hold pointers.
//
// Concurrency: the functions may be called from many goroutines at once.
package offheap
