package redis

// SlotOf is for tests.
var SlotOf = slotOf
