//go:build mutant

package mutant

import (
	"fmt"
	"os"
	"strings"
)

var name = chosen()

// chosen returns the mistake to make. A sandbox's runner starts without an environment, and makes its parent's.
func chosen() string {
	if name, ok := os.LookupEnv("SARSEN_MUTANT"); ok {
		return name
	}
	parent, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", os.Getppid()))
	for v := range strings.SplitSeq(string(parent), "\x00") {
		if name, ok := strings.CutPrefix(v, "SARSEN_MUTANT="); ok {
			return name
		}
	}
	return ""
}

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
	// SealUnsynced writes a footer that vouches for bytes which are not on the disk yet.
	SealUnsynced = name == "SealUnsynced"
	// LeaseUnlogged answers yes without writing the lease down.
	LeaseUnlogged = name == "LeaseUnlogged"
	// KeyPresent removes an entry because its key is there, though it is another incarnation than the one that
	// was looked at (seed 000, its first fix undone).
	KeyPresent = name == "KeyPresent"
	// PlaceFirst looks up where a blob lies before it pins it (seed 000, its second fix undone: the path is
	// captured before the lock).
	PlaceFirst = name == "PlaceFirst"
	// StaleHandle tries again with the place that it has, three times, instead of looking it up anew (seed 000,
	// its third fix undone).
	StaleHandle = name == "StaleHandle"
	// StaleUnref lets the cleaner, who comes late, take a key for the copy that he looks at (seed 000: the clean-up
	// of an old entry acts on its successor).
	StaleUnref = name == "StaleUnref"
	// BodyUnsummed believes a header without looking at the bytes (seed 001, torn entry).
	BodyUnsummed = name == "BodyUnsummed"
	// HeaderLate writes the header of a streamed blob when it is complete, so that a kill leaves a gap in the chain.
	HeaderLate = name == "HeaderLate"
	// ResultUnsynced publishes a result before it is on the disk (seed 001).
	ResultUnsynced = name == "ResultUnsynced"
	// NameUnsynced hands out extents of a segment whose name may not outlive a power cut.
	NameUnsynced = name == "NameUnsynced"
	// KeepFirst lets start-up keep the first copy of a record that it finds, not the last (seed 001, lost update).
	KeepFirst = name == "KeepFirst"
	// AnyOrder lets the cleaner pass over the oldest segment, so that what was superseded outlives what superseded it.
	AnyOrder = name == "AnyOrder"
	// LostUnleased says yes to the writer who came second without leasing what is there (seed 002, stale positive).
	LostUnleased = name == "LostUnleased"
	// StampApart looks a blob up in one section and leases it in another (seed 002, eviction between check and use).
	StampApart = name == "StampApart"
	// CondemnApart looks at pins and leases in one section and removes in another (seed 002, eviction between check
	// and use).
	CondemnApart = name == "CondemnApart"
	// Poisoned lets an upload that failed take away what another one stored under its digest (seed 002, poisoned
	// in-flight entry).
	Poisoned = name == "Poisoned"
	// TreeUnread takes a tree for its bytes, and not for the files that it names (seed 002, lost inputs).
	TreeUnread = name == "TreeUnread"
	// UpdateUnpinned lets parts of a result go while the result is written (seed 002).
	UpdateUnpinned = name == "UpdateUnpinned"
	// UpdateUnleased acknowledges a result without leasing what it names (seed 002).
	UpdateUnleased = name == "UpdateUnleased"
	// DropLatest drops whatever result there is now for one that was found incomplete (seed 002, lost update).
	DropLatest = name == "DropLatest"
	// SyncAgain believes a sync that succeeds after one that failed.
	SyncAgain = name == "SyncAgain"
	// NoTurn changes the ring without being its owner, so that two who copied it undo each other's change
	// (seed 003).
	NoTurn = name == "NoTurn"

	// ChunkUnheld takes a chunk of a backup without holding it until the backup is finished (seed 004: the collector
	// decides between upload and insert).
	ChunkUnheld = name == "ChunkUnheld"
	// DuplicateUnheld answers that a chunk is stored already without holding it (seed 004, upstream's hit in its cache).
	DuplicateUnheld = name == "DuplicateUnheld"
	// PreviousUnheld says which chunks the last snapshot has without holding them.
	PreviousUnheld = name == "PreviousUnheld"
	// HoldSwapped lets go of the Readers of chunks before a root holds these.
	HoldSwapped = name == "HoldSwapped"
	// ChangeUnlocked changes a snapshot's root from what it was before somebody else changed it.
	ChangeUnlocked = name == "ChangeUnlocked"
	// ChunkBelieved takes a chunk for what its digest says.
	ChunkBelieved = name == "ChunkBelieved"
	// MissingForgotten lets a snapshot go of what seems to be missing while another server's collection asks about it.
	MissingForgotten = name == "MissingForgotten"

	// RunsTwice lets identical actions in flight run once for each client.
	RunsTwice = name == "RunsTwice"
	// HoleServed answers success for a result that names a missing blob.
	HoleServed = name == "HoleServed"
	// AmountKept gives what a task consumed of a worker's amounts never back.
	AmountKept = name == "AmountKept"
	// LeaseOnce leases the inputs of an action at admission only.
	LeaseOnce = name == "LeaseOnce"
	// GraceForgets takes what a worker runs for lost when its connection breaks, though it comes back with it.
	GraceForgets = name == "GraceForgets"

	// LinkUnpinned gives the pin back before the link is made, so that the cleaner may remove the file in between.
	LinkUnpinned = name == "LinkUnpinned"
	// SizeOnly takes bytes of the right length for the blob.
	SizeOnly = name == "SizeOnly"
	// LoserRemoves lets the second of two writers remove the file of the first one instead of his own (seed 000).
	LoserRemoves = name == "LoserRemoves"
	// BootIgnored trusts files that were never synced after the machine was restarted.
	BootIgnored = name == "BootIgnored"

	// TreeBelieved takes what Tree returned under a digest for that directory.
	TreeBelieved = name == "TreeBelieved"
	// NeverLands leaves a fetch that failed under way for ever, so that nobody takes over (seed 002, poisoned in-flight
	// entry).
	NeverLands = name == "NeverLands"
	// NoSecondLook fetches what another call brought between the look and the claim.
	NoSecondLook = name == "NoSecondLook"
	// LogUnsummed reads records of the directory cache's file that do not match their checksum.
	LogUnsummed = name == "LogUnsummed"
	// NamedTwice makes trees of directories in which two entries have one name.
	NamedTwice = name == "NamedTwice"
	// FirstMissing names one missing input and keeps quiet about the others.
	FirstMissing = name == "FirstMissing"
	// PublishApart lets what one fetch learned of a tree enter the cache bit by bit, so that others fetch the rest
	// again.
	PublishApart = name == "PublishApart"

	// LinkFollowed opens outputs through symbolic links, which may lead out of the action's root.
	LinkFollowed = name == "LinkFollowed"
	// PipeAwaited opens outputs as a reader waits for a writer, which a FIFO never gets.
	PipeAwaited = name == "PipeAwaited"
	// SetuidKept records bits above 0777 of an output's mode.
	SetuidKept = name == "SetuidKept"
	// UploadIgnored answers with a result though an upload failed (seed 002, tree file not uploaded).
	UploadIgnored = name == "UploadIgnored"
	// ChangeUnseen takes a file that changed while it was read.
	ChangeUnseen = name == "ChangeUnseen"

	// NetworkShared runs actions in the host's network.
	NetworkShared = name == "NetworkShared"
	// PrivilegesGained lets programs give an action privileges; the filters that need it otherwise go with it.
	PrivilegesGained = name == "PrivilegesGained"
	// FilesOwned gives staged files to the action, which share their inode with the store.
	FilesOwned = name == "FilesOwned"
	// LeftBehind lets processes that an action left behind live on where there is no sandbox.
	LeftBehind = name == "LeftBehind"

	// BatchBelieved does not hash what came in a batch.
	BatchBelieved = name == "BatchBelieved"
	// StreamBelieved does not hash what came in one stream.
	StreamBelieved = name == "StreamBelieved"
	// RangesBelieved does not hash what came in ranges.
	RangesBelieved = name == "RangesBelieved"
	// RangesSwapped puts the ranges of a blob together in another order than they have.
	RangesSwapped = name == "RangesSwapped"

	// RootFirst publishes a root before it keeps what the root names (seed 004: the collector between upload and insert).
	RootFirst = name == "RootFirst"
	// ReleaseFirst lets go of what a root names before the record that says so is durable.
	ReleaseFirst = name == "ReleaseFirst"
	// MarkLate lets the cleaner go to work before start-up has read the roots.
	MarkLate = name == "MarkLate"
	// HoleKept says yes to a root of which a part is missing.
	HoleKept = name == "HoleKept"
	// BusyDropped takes a store that can't open a chunk at the moment for one that lost it, and keeps the chunk no more.
	BusyDropped = name == "BusyDropped"

	// AssetHole serves an asset of which something is gone (seed 002, lost inputs).
	AssetHole = name == "AssetHole"
	// AssetDropLatest drops what was pushed last for one that was found incomplete (seed 002, lost update).
	AssetDropLatest = name == "AssetDropLatest"
	// MappingHole gives out a mapping of which a chunk is gone (seed 002, lost inputs).
	MappingHole = name == "MappingHole"
	// MappingBelieved keeps a client's mapping of a blob that is there without comparing the bytes.
	MappingBelieved = name == "MappingBelieved"
	// MappingUnhashed keeps a mapping of what was read of a blob, without comparing that with its hash.
	MappingUnhashed = name == "MappingUnhashed"

	// EpochApart lets two who put the first entries of a namespace draw an epoch each, so that the second takes from the first what was
	// acknowledged.
	EpochApart = name == "EpochApart"
	// OnceApart looks whether an entry is there and puts it without the turn in between, so that two are told that theirs stays.
	OnceApart = name == "OnceApart"
	// EpochKept cleans a namespace without beginning another epoch.
	EpochKept = name == "EpochKept"
	// EpochGuessed draws the same epoch again, so that what was cleaned or evicted with it comes back.
	EpochGuessed = name == "EpochGuessed"
	// CutStored takes a body that was cut off for one that has ended (seed 001, torn entry).
	CutStored = name == "CutStored"
	// NarinfoAlone serves a .narinfo without looking for its archive (seed 002, lost inputs).
	NarinfoAlone = name == "NarinfoAlone"

	// SealBelieved takes a file that was written to for what was put.
	SealBelieved = name == "SealBelieved"
	// InlineBelieved does not hash the output that a server sent inside its result.
	InlineBelieved = name == "InlineBelieved"
	// RunForgotten trims what a go command that still runs was given.
	RunForgotten = name == "RunForgotten"
	// VictimUsed removes what was used since it was chosen (seed 002, eviction between check and use).
	VictimUsed = name == "VictimUsed"
	// PartBuried takes parts of processes that live for those of dead ones.
	PartBuried = name == "PartBuried"

	// ValueCut goes on after a value that ended in the middle, so that what comes next is taken for its rest.
	ValueCut = name == "ValueCut"
	// RestUnread leaves what the server did not take of a value, so that it is taken for the next request.
	RestUnread = name == "RestUnread"
	// SocketShared makes the socket for everybody.
	SocketShared = name == "SocketShared"
	// ManyTry lets all ask a server that did not answer when the pause is over, not one.
	ManyTry = name == "ManyTry"

	// RecordUnleased gives out a record that may be evicted at once, so that HEAD's yes is a GET's no.
	RecordUnleased = name == "RecordUnleased"
	// AbsentForgotten does not note which headers were absent that would have been found first.
	AbsentForgotten = name == "AbsentForgotten"
	// ProbeForgotten does not note a header that __has_include found and nothing read.
	ProbeForgotten = name == "ProbeForgotten"
	// TwinForgotten does not look for headers that gcc took for others.
	TwinForgotten = name == "TwinForgotten"
	// FreshTrusted relies on headers that changed after the compile began.
	FreshTrusted = name == "FreshTrusted"
	// TextBelieved keeps by the preprocessor's text what was compiled after a header had changed.
	TextBelieved = name == "TextBelieved"
	// AssemblerBelieved does not look at what the assembler has read.
	AssemblerBelieved = name == "AssemblerBelieved"
	// ArgumentDropped leaves options of the optimiser out of the key.
	ArgumentDropped = name == "ArgumentDropped"
	// VariableDropped leaves the environment out of the key.
	VariableDropped = name == "VariableDropped"
	// DirectoryDropped leaves the directory out of the key.
	DirectoryDropped = name == "DirectoryDropped"
	// DriverOnly takes the driver for the whole compiler.
	DriverOnly = name == "DriverOnly"
	// WritersIgnored keeps an output that two compiles wrote at a time.
	WritersIgnored = name == "WritersIgnored"
	// ResultFirst publishes an entry before its blobs are there (seed 001, torn entry).
	ResultFirst = name == "ResultFirst"
	// PartTaken takes an entry for a hit though an output is missing.
	PartTaken = name == "PartTaken"
	// SourceReplaced puts outputs in the place of whatever file is there.
	SourceReplaced = name == "SourceReplaced"
	// ManifestReplaced replaces a manifest instead of adding to it (seed 001, lost update).
	ManifestReplaced = name == "ManifestReplaced"
	// CountLost adds to a counter what it was a moment ago (seed 001, lost update).
	CountLost = name == "CountLost"
	// AckEarly acknowledges a write before the far store has it.
	AckEarly = name == "AckEarly"
	// ClimbUnpinned lets the near store evict what the far one does not have yet.
	ClimbUnpinned = name == "ClimbUnpinned"
	// LeaderPoisons lets whoever waited for another reader's fetch fail with it (seed 002, poisoned readers).
	LeaderPoisons = name == "LeaderPoisons"
	// RecordOvertaken leaves an older record far when a newer one was put meanwhile (seed 001, lost update).
	RecordOvertaken = name == "RecordOvertaken"
	// ClimbsOnce lets go of what was written back when the far store does not take it at once.
	ClimbsOnce = name == "ClimbsOnce"
	// FillOvertakes lets an older record from the far store replace one that was put meanwhile (seed 001, lost update).
	FillOvertakes = name == "FillOvertakes"
	// FarHidden puts a record far while an older one is near, where it is found first (seed 001, lost update).
	FarHidden = name == "FarHidden"
	// FilledBlind takes for granted that what was fetched is still near.
	FilledBlind = name == "FilledBlind"
	// KeepUnpinned lets what a root names go while the root is written (seed 004, commit without pins).
	KeepUnpinned = name == "KeepUnpinned"
	// RootUnfenced writes a root with a request that is good for ever, however long the process was stopped before it was sent.
	RootUnfenced = name == "RootUnfenced"
	// RootOvertaken writes a root above one that its writer has not read (seed 001, lost update).
	RootOvertaken = name == "RootOvertaken"
	// SupersededEarly removes a superseded root while its name may yet be created by who has not seen it (seed 001, lost update).
	SupersededEarly = name == "SupersededEarly"
	// ChangeBlind changes a root on whatever condition (seed 001, lost update).
	ChangeBlind = name == "ChangeBlind"
	// RootsOnce reads the roots before the sessions let go, and not again (seed 004, mark before the floor).
	RootsOnce = name == "RootsOnce"
	// OneListing asks the sessions that there were before the proposal, and not those that began meanwhile.
	OneListing = name == "OneListing"
	// DeadLeases forgets what a session promised when it ends.
	DeadLeases = name == "DeadLeases"
	// RefusalsIgnored deletes what a session refused to let go of.
	RefusalsIgnored = name == "RefusalsIgnored"
	// DeleteFirst deletes before the verdict is in the register.
	DeleteFirst = name == "DeleteFirst"
	// KeyReused gives every copy of a blob the same key (seed 004).
	KeyReused = name == "KeyReused"
	// AdoptBlind adopts what it finds without asking whether it may be deleted.
	AdoptBlind = name == "AdoptBlind"
	// UndecidedGone says that a blob is gone of which others are still asked.
	UndecidedGone = name == "UndecidedGone"
	// DamageIgnored removes blobs that a root may name which can't be read.
	DamageIgnored = name == "DamageIgnored"
	// RedisSaysYes takes what Redis names for what the bucket has.
	RedisSaysYes = name == "RedisSaysYes"
	// RedisUnhashed hands on bytes from Redis that may be another blob's.
	RedisUnhashed = name == "RedisUnhashed"
	// RedisOlder lets an older record in Redis replace a newer one.
	RedisOlder = name == "RedisOlder"
	// RedisLate acknowledges a put before the other servers can see it.
	RedisLate = name == "RedisLate"
	// WaitersFail lets all who wait for an upload fail with it (seed 004, leader's failure).
	WaitersFail = name == "WaitersFail"
	// UploadUndefended lets go of an upload between its PUT and its entry in the ledger (seed 004).
	UploadUndefended = name == "UploadUndefended"
	// ShortFence gives a yes though others may have declared the session dead.
	ShortFence = name == "ShortFence"
	// RegisterUnfenced lets a collector that was stopped write its verdict over what another one decided since.
	RegisterUnfenced = name == "RegisterUnfenced"
)
