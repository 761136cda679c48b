//go:build !mutant

package mutant

// The mistakes, none of them made. See on.go for what each one is.
const (
	FirstWins   = false
	OpenHolds   = false
	NoFalseYes  = false
	YesStands   = false
	Immutable   = false
	Complete    = false
	AbortVictim = false

	EarlyComplete = false
	EarlySynced   = false
	NoSlot        = false
	MoveBlind     = false
	MoveUnsynced  = false
	LeaseUnlogged = false
)
