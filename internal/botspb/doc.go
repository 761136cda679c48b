// Package botspb is as much of the Remote Workers API as buildbox-worker speaks, made from bots.proto by
// `make generate`.
package botspb
