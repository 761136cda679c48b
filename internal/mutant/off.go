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
	SealUnsynced  = false
	LeaseUnlogged = false

	KeyPresent     = false
	PlaceFirst     = false
	StaleHandle    = false
	StaleUnref     = false
	BodyUnsummed   = false
	HeaderLate     = false
	ResultUnsynced = false
	NameUnsynced   = false
	KeepFirst      = false
	AnyOrder       = false
	LostUnleased   = false
	StampApart     = false
	CondemnApart   = false
	Poisoned       = false
	TreeUnread     = false
	UpdateUnpinned = false
	UpdateUnleased = false
	DropLatest     = false
	NoTurn         = false
	SyncAgain      = false

	ChunkUnheld     = false
	DuplicateUnheld = false
	PreviousUnheld  = false
	HoldSwapped     = false
	ChangeUnlocked  = false
	ChunkBelieved   = false

	MissingForgotten = false

	RunsTwice    = false
	HoleServed   = false
	AmountKept   = false
	LeaseOnce    = false
	GraceForgets = false

	LinkUnpinned = false
	SizeOnly     = false
	LoserRemoves = false
	BootIgnored  = false

	TreeBelieved = false
	NeverLands   = false
	NoSecondLook = false
	LogUnsummed  = false
	NamedTwice   = false
	FirstMissing = false
	PublishApart = false

	LinkFollowed  = false
	PipeAwaited   = false
	SetuidKept    = false
	UploadIgnored = false
	ChangeUnseen  = false

	NetworkShared    = false
	PrivilegesGained = false
	FilesOwned       = false
	LeftBehind       = false

	BatchBelieved  = false
	StreamBelieved = false
	RangesBelieved = false
	RangesSwapped  = false

	RootFirst    = false
	ReleaseFirst = false
	MarkLate     = false
	HoleKept     = false
	BusyDropped  = false

	AssetHole       = false
	AssetDropLatest = false
	MappingHole     = false
	MappingBelieved = false
	MappingUnhashed = false

	EpochApart   = false
	OnceApart    = false
	EpochKept    = false
	EpochGuessed = false
	CutStored    = false
	NarinfoAlone = false

	SealBelieved   = false
	InlineBelieved = false
	RunForgotten   = false
	VictimUsed     = false
	PartBuried     = false

	ValueCut          = false
	RestUnread        = false
	SocketShared      = false
	ManyTry           = false
	RecordUnleased    = false
	AbsentForgotten   = false
	ProbeForgotten    = false
	TwinForgotten     = false
	FreshTrusted      = false
	TextBelieved      = false
	AssemblerBelieved = false
	ArgumentDropped   = false
	VariableDropped   = false
	DirectoryDropped  = false
	DriverOnly        = false
	WritersIgnored    = false
	ResultFirst       = false
	PartTaken         = false
	SourceReplaced    = false
	ManifestReplaced  = false
	CountLost         = false
	AckEarly          = false
	ClimbUnpinned     = false
	LeaderPoisons     = false
	RecordOvertaken   = false
	ClimbsOnce        = false
	FillOvertakes     = false
	FarHidden         = false
	FilledBlind       = false
	KeepUnpinned      = false
	RootUnfenced      = false
	RootOvertaken     = false
	ChangeBlind       = false
	SupersededEarly   = false
	RootsOnce         = false
	OneListing        = false
	DeadLeases        = false
	RefusalsIgnored   = false
	DeleteFirst       = false
	KeyReused         = false
	AdoptBlind        = false
	UndecidedGone     = false
	DamageIgnored     = false
	RedisSaysYes      = false
	RedisUnhashed     = false
	RedisOlder        = false
	RedisLate         = false
	WaitersFail       = false
	UploadUndefended  = false
	ShortFence        = false
	RegisterUnfenced  = false
)
