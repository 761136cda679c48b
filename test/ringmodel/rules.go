package ringmodel

import "reflect"

// rules are what the ring does. Each can be taken away.
type rules struct {
	RefInPin         bool // the reference to the segment's file is taken in the section that pins
	StampInSection   bool // a yes looks up and stamps in one section
	CondemnRechecks  bool // condemning looks at pins and leases in the section that removes
	CopySynced       bool // a copy is synced before the ledger names it
	CopyVerified     bool // the cleaner verifies what it copies
	SwitchCompares   bool // the ledger names a copy only if it still names the original
	Slot             bool // one writer a record, the cleaner included
	InOrder          bool // segments go strictly oldest first
	DirSyncCreate    bool // a segment's name is durable before it hands out an extent
	DirSyncRemove    bool // a removal is durable before the next one
	DropCompares     bool // an incomplete result is dropped only if it is still the one looked at
	Chain            bool // a header is written as its extent is handed out
	RefuseVictim     bool // nothing is published into a segment that is being cleaned
	BadFails         bool // after a failed sync nothing in flight there is published
	FirstWins        bool // a blob is never replaced
	PublishAfterSync bool // bytes are durable before they are acknowledged
	BlobsFirst       bool // a result is acknowledged after what it names is synced
	BadBlocks        bool // nor is one while the ledger names something in a segment whose sync failed
	UpdatePins       bool // an update pins what the result names until that is leased
	BodySum          bool // without a footer, a result's bytes are checked too
	FreshGeneration  bool // start-up makes a segment above all that is listed
	OpenListed       bool // a footer says complete only of what is published
	OpenHashed       bool // start-up hashes what no footer calls complete
	FooterAfterSync  bool // a footer is written when what it lists is durable
	LeasesLogged     bool // a yes that opens a quarter is written down
	LogBeforeYes     bool // it is written down before the answer
	EveryAsker       bool // every asker writes it down until it is marked as written
	OldSegmentLogged bool // so is a publication into a segment older than the log
	CleanerLogs      bool // the leases of what is moved are written down
	LogsLive         bool // a log stays while something that it names may be leased
	LogsCarried      bool // start-up writes down what the old logs said
	BootChecked      bool // after a power cut everything is leased: the logs are not synced
	VoidObeyed       bool // start-up drops what a void record names
	VoidSynced       bool // a quarantine is acknowledged when its record is durable
	KeptBeforeRoot   bool // what a root holds is kept before the root is published
	RootKept         bool // so is the root's record
	LetGoAfter       bool // what a root held is let go when the next one is durable
	FailedStays      bool // what a root whose sync failed holds stays kept: a start may find it
	RootsMarked      bool // start-up keeps what roots hold before anything may go
}

// ruleNames returns the names of all rules.
func ruleNames() (names []string) {
	t := reflect.TypeFor[rules]()
	for i := range t.NumField() {
		names = append(names, t.Field(i).Name)
	}
	return names
}

// without returns every rule but those.
func without(names ...string) (r rules) {
	v := reflect.ValueOf(&r).Elem()
	for _, name := range ruleNames() {
		v.FieldByName(name).SetBool(true)
	}
	for _, name := range names {
		v.FieldByName(name).SetBool(false)
	}
	return r
}
