package compiler

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/sarsen-build/sarsen/internal/mutant"
)

// Counters are the statistics, in a file that is mapped into memory: a count is one atomic addition,
// and a killed process loses none of those that it made.
//
// The file is a header of 64 bytes and slots of 64: a name of up to 55 bytes with its length before it,
// and eight bytes of count, in the machine's order. Slots are only ever added.
type Counters struct {
	mu    sync.Mutex // of names
	names map[string]int
	mem   []byte
}

const (
	countersMagic = "SarsenC\x01"
	slotSize      = 64
	slotName      = slotSize - 8
	slotCount     = 255
	countersSize  = slotSize * (slotCount + 1)
)

// OpenCounters opens the counters in a file, which is made if it is not there. One that makes no sense
// is begun anew.
func OpenCounters(path string) (*Counters, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, len(countersMagic))
	if n, _ := f.ReadAt(head, 0); n > 0 && string(head) != countersMagic {
		if err := f.Truncate(0); err != nil {
			return nil, err
		}
	}
	if err := f.Truncate(countersSize); err != nil {
		return nil, err
	}
	// Written, not only made longer: on a full disk a hole in a mapped file would be a fatal signal.
	if err := fill(f); err != nil {
		return nil, err
	}
	mem, err := syscall.Mmap(int(f.Fd()), 0, countersSize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, &os.PathError{Op: "map", Path: path, Err: err}
	}
	c := &Counters{names: map[string]int{}, mem: mem}
	copy(mem, countersMagic)
	for i := range slotCount {
		if name := c.name(i); name != "" {
			c.names[name] = i
		}
	}
	return c, nil
}

// fill writes back what the file has, so that all of it has its place on the disk.
func fill(f *os.File) error {
	b := make([]byte, countersSize)
	if _, err := f.ReadAt(b, 0); err != nil {
		return err
	}
	_, err := f.WriteAt(b, 0)
	return err
}

func (c *Counters) slot(i int) []byte { return c.mem[slotSize*(i+1):][:slotSize] }

func (c *Counters) name(i int) string {
	s := c.slot(i)
	if n := int(s[0]); n > 0 && n < slotName {
		return string(s[1 : 1+n])
	}
	return ""
}

func (c *Counters) value(i int) *uint64 { return (*uint64)(unsafe.Pointer(&c.slot(i)[slotName])) }

// Add adds n to a counter.
func (c *Counters) Add(name string, n uint64) {
	if i, ok := c.find(name); ok {
		if mutant.CountLost {
			old := *c.value(i)
			runtime.Gosched()
			*c.value(i) = old + n
			return
		}
		atomic.AddUint64(c.value(i), n)
	}
}

// find returns the slot of a name, which it takes if there is none yet.
func (c *Counters) find(name string) (int, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i, ok := c.names[name]; ok {
		return i, true
	}
	i := len(c.names)
	if i == slotCount || len(name) >= slotName {
		return 0, false
	}
	s := c.slot(i)
	copy(s[1:], name)
	s[0] = byte(len(name)) // last: a name is there when its length is
	c.names[name] = i
	return i, true
}

// Zero sets all counters to 0.
func (c *Counters) Zero() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range c.names {
		atomic.StoreUint64(c.value(i), 0)
	}
}

// All returns the counters that are not 0.
func (c *Counters) All() map[string]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := map[string]uint64{}
	for name, i := range c.names {
		if n := atomic.LoadUint64(c.value(i)); n > 0 {
			all[name] = n
		}
	}
	return all
}

// Close gives the memory back.
func (c *Counters) Close() error { return syscall.Munmap(c.mem) }

// ReadCounters returns the counters in a file without opening it for counting.
func ReadCounters(path string) (map[string]uint64, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return map[string]uint64{}, nil
	}
	if err != nil {
		return nil, err
	}
	if len(b) != countersSize || !strings.HasPrefix(string(b), countersMagic) {
		return nil, fmt.Errorf("%s holds no statistics", path)
	}
	c := &Counters{mem: b}
	all := map[string]uint64{}
	for i := range slotCount {
		if name := c.name(i); name != "" {
			if n := binary.NativeEndian.Uint64(c.slot(i)[slotName:]); n > 0 {
				all[name] = n
			}
		}
	}
	return all, nil
}

// The counters. What follows "pass." is a reason of package args or one of the daemon's own.
const (
	hitDirect       = "hit.direct"
	hitPreprocessed = "hit.preprocessed"
	hitRemote       = "remote.fetched" // entries that were not here before

	missNew     = "miss.new"            // nothing was compiled with this source and these arguments
	missHeader  = "miss.header"         // a header differs from every time before
	missAbsent  = "miss.header_appears" // a header is there that would be found first
	missEvicted = "miss.evicted"        // the entry is gone
	missDate    = "miss.date"           // __DATE__ is another day's
	missForced  = "miss.recache"        // asked for with SARSEN_CC_RECACHE

	stored        = "stored.entries"
	notFailed     = "not_stored.compile_failed"
	notFresh      = "not_stored.header_too_new"
	notTime       = "not_stored.time_macro"
	notHidden     = "not_stored.hidden_input" // .incbin, #embed or a precompiled header
	notOutput     = "not_stored.output_missing"
	notFull       = "not_stored.store_full"
	notDeps       = "not_stored.no_dependencies"
	notChanged    = "not_stored.changed_meanwhile"
	notLeft       = "not_stored.launcher_left"
	notError      = "not_stored.error"
	notReadOnly   = "not_stored.read_only"
	executedThere = "executed.remotely"
	notConfigured = "not_executed.no_server_set"
	notOffered    = "not_executed.server_executes_nothing"
	notServer     = "not_executed.server_failed"
	notNow        = "not_executed.server_failed_before"
	notBegun      = "not_executed.in_queue" // and a processor idle here
	notRun        = "not_executed.refused"
	notSucceeded  = "not_executed.compile_failed" // there; what it says here is delivered
	notWritten    = "not_executed.output_missing"
	notWords      = "not_executed.messages_in_a_locale"
	notSame       = "not_executed.other_headers_read"
	notScanned    = "not_executed.headers_not_found"
	notMeanwhile  = "not_executed.changed_meanwhile"
	notPlaced     = "not_executed.private_directory" // something lies in /tmp, /dev or /proc
	notTold       = "not_executed.headers_alike"
	notPlanned    = "not_executed.error"
	notGCC        = "not_executed.not_gcc"
	notToday      = "not_executed.time_macro" // it may be another day there
	notNative     = "not_executed.processor"  // -march=native
	notOptions    = "not_executed.option"
	notLibraries  = "not_executed.library_variables"

	passView     = "pass.another_file_system_view"
	passOutput   = "pass.output_not_a_file"
	passCompiler = "pass.compiler_unknown"
	passScript   = "pass.compiler_is_a_script"
	passSource   = "pass.source_unreadable"
	passExtra    = "pass.extra_file_unreadable"
	passTime     = "pass.time_macro"
	passHidden   = "pass.hidden_input"
	passError    = "pass.error"
	uploadDone   = "remote.uploaded"
	uploadFailed = "remote.upload_failed"
	lookupFailed = "remote.lookup_failed"
)
