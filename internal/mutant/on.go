//go:build mutant

package mutant

import "os"

var name = os.Getenv("SARSEN_MUTANT")

var (
	// FirstWins lets a writer that came second give back the room that the name stands for now, not
	// what it wrote itself (seed 000: the replaced entry's clean-up removes its successor's file).
	FirstWins = name == "FirstWins"
	// OpenHolds looks a blob up without pinning it and takes its reference to the file later, so that
	// eviction may come in between (seed 000, reader against eviction).
	OpenHolds = name == "OpenHolds"
	// NoFalseYes reports success to a writer whose upload was given up (seed 000: the losing writer
	// says yes while the winner's file is being removed).
	NoFalseYes = name == "NoFalseYes"
	// YesStands looks a blob up for Missing without leasing it (seed 002, stale positive).
	YesStands = name == "YesStands"
	// Immutable publishes bytes before they are verified.
	Immutable = name == "Immutable"
	// Complete serves a result without looking at what it names (seed 002, lost inputs).
	Complete = name == "Complete"
	// AbortVictim publishes an upload whose segment is being evicted (seed 003).
	AbortVictim = name == "AbortVictim"
	// EarlyComplete calls an extent complete before it is published, so that a footer may vouch for
	// what is then given back (found in review).
	EarlyComplete = name == "EarlyComplete"
	// EarlySynced takes bytes for durable when their sync begins (found in review).
	EarlySynced = name == "EarlySynced"
	// NoSlot lets two updates of one result go at once, so that their order in the ring need not be
	// that in the ledger.
	NoSlot = name == "NoSlot"
	// MoveBlind lets a copy of a record replace what was written since the copy was made.
	MoveBlind = name == "MoveBlind"
	// MoveUnsynced lets the ledger name a copy that is not on the disk yet.
	MoveUnsynced = name == "MoveUnsynced"
	// LeaseUnlogged answers yes without writing the lease down.
	LeaseUnlogged = name == "LeaseUnlogged"
)
