package pbs

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sarsen-build/sarsen/internal/refusal"
)

// tasks are what was started and goes on by itself. They are forgotten with the process.
type tasks struct {
	mu   sync.Mutex
	last uint32
	all  []*task // the oldest first
}

// maxTasks is how many tasks, and maxLines how many lines of each, are remembered.
const (
	maxTasks = 200
	maxLines = 10000
)

type task struct {
	id         string // UPID
	kind, what string
	user       string
	began      time.Time

	mu     sync.Mutex
	lines  []string
	status string // "" while it runs, then OK or what went wrong
	ended  time.Time
}

func (t *task) logf(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) < maxLines {
		t.lines = append(t.lines, fmt.Sprintf(format, args...))
	}
}

// escapeID makes an ID one part of a UPID.
var escapeID = strings.NewReplacer(":", `\x3a`, "/", `\x2f`, "-", `\x2d`)

// begin runs a task until it ends or the server stops, and returns its name at once.
func (s *Server) begin(kind, what, user string, run func(context.Context, *task) error) string {
	s.tasks.mu.Lock()
	s.tasks.last++
	now := time.Now()
	t := &task{kind: kind, what: what, user: user, began: now}
	// UPID:NODE:PID:PROCESS START:TASK:START:KIND:WHAT:USER: with numbers in hexadecimal.
	t.id = fmt.Sprintf("UPID:localhost:%08X:%08X:%08X:%08X:%s:%s:%s:", os.Getpid(), uint32(s.started.Unix()), s.tasks.last, uint32(now.Unix()),
		kind, escapeID.Replace(what), user)
	s.tasks.all = append(s.tasks.all, t)
	if n := len(s.tasks.all) - maxTasks; n > 0 {
		s.tasks.all = slices.Delete(s.tasks.all, 0, n)
	}
	s.tasks.mu.Unlock()
	s.idle.Add(1)
	go func() {
		defer s.idle.Done()
		err := run(s.stopping, t)
		status := "OK"
		if err == nil {
			t.logf("TASK OK")
		} else {
			status = err.Error()
			t.logf("TASK ERROR: %s", status)
		}
		s.log.Info("task ended", "kind", kind, "of", what, "by", user, "status", status)
		t.mu.Lock()
		defer t.mu.Unlock()
		t.status, t.ended = status, time.Now()
	}()
	return t.id
}

// task returns the task that a request names, if it is the sender's.
func (q *request) task() (*task, error) {
	id := q.r.PathValue("upid")
	ts := &q.server.tasks
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, t := range ts.all {
		if t.id == id && q.account.owns(t.user) {
			return t, nil
		}
	}
	return nil, refusal.New(http.StatusNotFound, "no such task")
}

type taskItem struct {
	UPID      string `json:"upid"`
	Node      string `json:"node"`
	PID       int    `json:"pid"`
	Start     int64  `json:"pstart"`
	StartTime int64  `json:"starttime"`
	Kind      string `json:"type"`
	KindToo   string `json:"worker_type"`
	What      string `json:"id"`
	WhatToo   string `json:"worker_id"`
	User      string `json:"user"`
	EndTime   int64  `json:"endtime,omitempty"`
	Status    string `json:"status,omitempty"`
	Exit      string `json:"exitstatus,omitempty"`
}

func (s *Server) itemOf(t *task) taskItem {
	t.mu.Lock()
	defer t.mu.Unlock()
	item := taskItem{
		UPID: t.id, Node: "localhost", PID: os.Getpid(), Start: s.started.Unix(), StartTime: t.began.Unix(),
		Kind: t.kind, KindToo: t.kind, What: t.what, WhatToo: t.what, User: t.user,
	}
	if t.status != "" {
		item.EndTime, item.Exit = t.ended.Unix(), t.status
	}
	return item
}

func (q *request) taskStatus() (any, error) {
	t, err := q.task()
	if err != nil {
		return nil, err
	}
	item := q.server.itemOf(t)
	item.EndTime, item.Status = 0, "stopped"
	if item.Exit == "" {
		item.Status = "running"
	}
	return item, nil
}

func (q *request) listTasks() (any, error) {
	ts := &q.server.tasks
	ts.mu.Lock()
	all := slices.Clone(ts.all)
	ts.mu.Unlock()
	items := []taskItem{}
	for _, t := range slices.Backward(all) {
		if q.account.owns(t.user) {
			item := q.server.itemOf(t)
			item.Status, item.Exit = item.Exit, ""
			items = append(items, item)
		}
	}
	return items, nil
}

// taskLog answers lines of a task's log, from start on, and how many there are in all.
func (q *request) taskLog() (any, error) {
	t, err := q.task()
	if err != nil {
		return nil, err
	}
	start, _, err := q.params.number("start")
	if err != nil {
		return nil, err
	}
	limit, ok, err := q.params.number("limit")
	if err != nil {
		return nil, err
	}
	if !ok || limit == 0 {
		limit = 50
	}
	type line struct {
		N int64  `json:"n"`
		T string `json:"t"`
	}
	lines := []line{}
	t.mu.Lock()
	total := int64(len(t.lines))
	for i := start; i < min(total, start+min(limit, maxLines)); i++ {
		lines = append(lines, line{i + 1, t.lines[i]})
	}
	active := t.status == ""
	t.mu.Unlock()
	writeJSON(q.w, map[string]any{"data": lines, "total": total, "active": active})
	return sent, nil
}
