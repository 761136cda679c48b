// Package tidy checks the house rules, as a test: which package may import which, that each has a
// comment and a line in docs/architecture.md, how long files and functions are, who may touch files,
// and that links in documents lead somewhere.
package tidy
