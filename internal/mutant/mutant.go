// Package mutant holds the mistakes that the tests must catch.
//
// Each name below is one invariant broken on purpose, in the way in which another system broke it.
// In an ordinary build they are all constants that are false, so the compiler removes them. Built
// with the tag mutant, the one named by the environment variable SARSEN_MUTANT is true, and
// test/mutants runs the tests that must then fail.
package mutant
