// Package workerpb is the stream between a scheduler and its workers, made from worker.proto by
// `make generate`.
package workerpb
