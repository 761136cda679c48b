// Package mutants makes each mistake of internal/mutant and checks that a test catches it.
package mutants
