// Package bench loads a Remote Execution API server and says how it bears it.
//
// It works against any server: only REAPI, ByteStream and the HTTP cache protocol are used, and what
// a server does not offer is reported as unsupported. Each workload is bounded in requests and in
// time. Payloads are random, new in every run, and made and hashed before the clock starts; every
// byte that is read back is compared with what was written.
//
// # Invariants
//
//   - A request counts as done only if its answer was checked; all others are errors.
//   - The client is cheap: requests are encoded before the clock, answers are compared in place and
//     never decoded into messages, so that the server is what is measured on a machine they share.
//
// # Concurrency
//
// Run drives one workload at a time, with as many goroutines as the workload says. What they share
// is written before they start and only read after that.
package bench

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sarsen-build/sarsen/client"
)

const (
	defaultLimit = 20 * time.Second
	shortLimit   = 3 * time.Second

	// What a workload may take to lay down the blobs that it reads.
	prepareLimit = 2 * time.Minute
)

// Options says what to load and how.
type Options struct {
	Server   string   // as client.ParseTarget reads it
	HTTP     string   // http://HOST:PORT[/PREFIX] of the HTTP cache; empty leaves its workloads out
	Instance string   // REAPI instance name
	Only     []string // names of workloads; empty means all
	Short    bool     // a twentieth of the requests, to see whether everything works
	PID      int      // the server's process, whose CPU time and memory are read; 0 for none
	Seed     uint64   // of all payloads; 0 picks a new one

	// Progress is called a few times a second, from one goroutine at a time. It may be nil.
	Progress func(Progress)
}

// Progress says how far a run is.
type Progress struct {
	Workload string
	Number   int     // of the workload, from 1
	Of       int     // workloads in this run
	Done     float64 // part of its requests that are done, 0 to 1; 0 while it prepares
}

// A Report is what a run found out.
type Report struct {
	Server      string   `json:"server"`
	Instance    string   `json:"instance"`
	HTTP        string   `json:"http,omitempty"`
	APIVersions string   `json:"api_versions,omitempty"` // the lowest and the highest that the server speaks
	Started     string   `json:"started"`                // RFC 3339
	Seconds     float64  `json:"seconds"`                // the whole run, preparations included
	Seed        uint64   `json:"seed"`
	Short       bool     `json:"short"`
	ClientCPUs  int      `json:"client_cpus"`
	PID         int      `json:"server_pid,omitempty"`
	Results     []Result `json:"workloads"`
}

// What a Result's Status may be.
const (
	OK          = "ok"          // every answer was right
	Failed      = "failed"      // some answers were errors or wrong
	Unsupported = "unsupported" // the server does not offer what the workload needs
)

// A Result is what one workload found out. A request is one call; an item is what it carries: a blob,
// a digest, a directory or an action result.
type Result struct {
	Name        string `json:"name"`
	Status      string `json:"status"`
	Reason      string `json:"reason,omitempty"` // why not OK: the first error
	Concurrency int    `json:"concurrency"`
	Connections int    `json:"connections"`

	Requests     int     `json:"requests"` // that succeeded
	Errors       int     `json:"errors"`
	LimitReached bool    `json:"limit_reached"` // time ran out before the requests did
	Items        int64   `json:"items"`
	Bytes        int64   `json:"bytes"` // of payload; a write whose blob was there counts whole
	Seconds      float64 `json:"seconds"`

	RequestsPerSecond  float64 `json:"requests_per_second"`
	ItemsPerSecond     float64 `json:"items_per_second"`
	MegabytesPerSecond float64 `json:"megabytes_per_second"` // of 10^6 bytes

	P50 float64 `json:"latency_p50_milliseconds"`
	P95 float64 `json:"latency_p95_milliseconds"`
	P99 float64 `json:"latency_p99_milliseconds"`
	Max float64 `json:"latency_max_milliseconds"`

	ClientCPU float64 `json:"client_cpu_seconds"`
	Server    *Usage  `json:"server_process,omitempty"` // with Options.PID
}

// Usage is what the server's process spent.
type Usage struct {
	CPU             float64 `json:"cpu_seconds"`          // in this workload, in ticks of 10 ms
	CPUPerItem      float64 `json:"cpu_seconds_per_item"` // in this workload
	PeakMemory      int64   `json:"peak_memory_bytes"`    // VmHWM: resident, since the process started
	AnonymousMemory int64   `json:"anonymous_memory_bytes"`
}

// Run loads the server with each workload in turn. It returns an error if the server does not answer
// at all, if Options make no sense, or if ctx ends, then with the workloads that were done.
func Run(ctx context.Context, o Options) (*Report, error) {
	chosen, err := choose(o.Only, o.HTTP != "")
	if err != nil {
		return nil, err
	}
	started := time.Now()
	s, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	defer s.close()
	report := &Report{
		Server: s.target.String(), Instance: o.Instance, HTTP: o.HTTP, APIVersions: s.versions,
		Started: started.UTC().Format(time.RFC3339), Seed: s.seed, Short: o.Short, ClientCPUs: runtime.NumCPU(), PID: o.PID,
	}
	for i, w := range chosen {
		notify := func(done float64) {
			if o.Progress != nil {
				o.Progress(Progress{w.Name, i + 1, len(chosen), done})
			}
		}
		result := s.measure(ctx, w, notify)
		if err := ctx.Err(); err != nil {
			return report, err
		}
		report.Results = append(report.Results, result)
		report.Seconds = time.Since(started).Seconds()
	}
	return report, nil
}

// Faults returns the names of the workloads that failed.
func (r *Report) Faults() []string {
	var names []string
	for _, result := range r.Results {
		if result.Status == Failed {
			names = append(names, result.Name)
		}
	}
	return names
}

// choose returns the workloads of the given names, in the order in which they run best: those that
// read follow those that wrote what they read.
func choose(only []string, http bool) ([]Workload, error) {
	var chosen []Workload
	for _, w := range Workloads {
		switch {
		case len(only) == 0 && w.http && !http:
		case len(only) == 0 || slices.Contains(only, w.Name):
			if w.http && !http {
				return nil, fmt.Errorf("workload %s needs the address of the HTTP cache; give --http", w.Name)
			}
			chosen = append(chosen, w)
		}
	}
	for _, name := range only {
		if !slices.ContainsFunc(Workloads, func(w Workload) bool { return w.Name == name }) {
			return nil, fmt.Errorf("unknown workload %q, known are %s", name, strings.Join(names(), ", "))
		}
	}
	return chosen, nil
}

func names() []string {
	var list []string
	for _, w := range Workloads {
		list = append(list, w.Name)
	}
	return list
}

// A session is what the workloads of one run share.
type session struct {
	target   client.Target
	versions string
	instance string
	http     *httpTarget // nil without
	short    bool
	pid      int
	seed     uint64
	random   *source
	conns    []*grpc.ClientConn // grpcConnections

	// What the last workload left on the server, for the next to read.
	blobs   []payload
	results []actionResult
}

func open(ctx context.Context, o Options) (*session, error) {
	s := &session{instance: o.Instance, short: o.Short, pid: o.PID, seed: o.Seed}
	if o.PID != 0 {
		if _, err := readProcess(o.PID); err != nil {
			return nil, err
		}
	}
	if o.HTTP != "" {
		var err error
		if s.http, err = parseHTTP(o.HTTP); err != nil {
			return nil, err
		}
	}
	c, err := client.Dial(ctx, o.Server, o.Instance)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	s.target = c.Target()
	if low, high := c.Capabilities().GetLowApiVersion(), c.Capabilities().GetHighApiVersion(); high != nil {
		s.versions = fmt.Sprintf("%d.%d to %d.%d", low.GetMajor(), low.GetMinor(), high.GetMajor(), high.GetMinor())
	}
	for s.seed == 0 {
		var b [8]byte
		rand.Read(b[:]) // never fails
		s.seed = binary.LittleEndian.Uint64(b[:])
	}
	s.random = newSource(s.seed)
	for range grpcConnections {
		conn, err := connect(s.target)
		if err != nil {
			s.close()
			return nil, err
		}
		s.conns = append(s.conns, conn)
	}
	return s, nil
}

func (s *session) close() {
	for _, conn := range s.conns {
		conn.Close()
	}
}

// errUnsupported is returned by a workload's preparation for what the server's answer shows it lacks.
var errUnsupported = errors.New("unsupported")

// lacks reports whether err says that the server has no such call, or not in its configuration.
func lacks(err error) bool {
	switch status.Code(err) {
	case codes.Unimplemented, codes.FailedPrecondition:
		return true
	}
	return errors.Is(err, errUnsupported)
}
