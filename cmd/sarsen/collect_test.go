package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/config"
	"github.com/sarsen-build/sarsen/s3"
)

// TestAfter: when a bucket is collected again.
func TestAfter(t *testing.T) {
	now := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	h := &behind{config: config.Bucket{Collect: 24 * time.Hour}, log: slog.New(slog.DiscardHandler)}
	for _, test := range []struct {
		name string
		r    s3.Report
		err  error
		want schedule
	}{
		{"all is done", s3.Report{Candidates: 5, Deleted: 5}, nil, schedule{24 * time.Hour, false}},
		{"there is more", s3.Report{Candidates: 5, More: true}, nil, schedule{0, true}},
		{"there is more, and all of it was refused", s3.Report{Candidates: 5, Refused: 5, More: true}, nil, schedule{24 * time.Hour, false}},
		{"a promise stands", s3.Report{}, &s3.BlockedError{Until: now.Add(time.Hour)}, schedule{time.Hour, true}},
		{"another one collects", s3.Report{}, s3.ErrBusy, schedule{time.Hour, false}},
		{"a root is damaged", s3.Report{Candidates: 5, Deleted: 5}, &s3.DamagedError{Roots: make([]s3.Problem, 1)}, schedule{time.Hour, true}},
		{"the bucket is away", s3.Report{}, errors.New("away"), schedule{time.Hour, true}},
	} {
		if got := h.after(test.r, test.err, now); got != test.want {
			t.Errorf("%s: got %+v, want %+v", test.name, got, test.want)
		}
	}
}

// TestDamagedReport: where damaged roots let blobs stay, gc says what went all the same, and which root it was.
func TestDamagedReport(t *testing.T) {
	damaged := &s3.DamagedError{Roots: []s3.Problem{{Key: "r/nightly", What: "it was cut"}}}
	rounds := 0
	var said []gcLine
	err := gc(t.Context(), gcHow{}, func(l gcLine) { said = append(said, l) }, func(context.Context, s3.Policy) (s3.Report, error) {
		rounds++
		return s3.Report{Candidates: 2, Deleted: 2, More: rounds < 3}, explainCollect(config.Bucket{Name: "builds"}, damaged)
	})
	if len(said) != 1 || said[0].Report == nil || said[0].Report.Deleted != 6 {
		t.Errorf("said %+v, want a report of 6 objects that went", said)
	}
	if err == nil || !strings.Contains(err.Error(), "r/nightly") || strings.Contains(err.Error(), "can't be used") {
		t.Errorf("got %v, want the root's name, and not that the bucket can't be used", err)
	}
}
