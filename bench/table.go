package bench

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
)

// WriteTable writes the report for people: one workload a line, and below the table why a workload
// is not OK.
func (r *Report) WriteTable(w io.Writer) error {
	head := []string{"workload", "requests", "errors", "req/s", "items/s", "MB/s", "p50 ms", "p95 ms", "p99 ms"}
	if r.PID != 0 {
		head = append(head, "CPU µs/item", "peak MiB")
	}
	rows := [][]string{head}
	var notes []string
	for _, result := range r.Results {
		if result.Requests+result.Errors == 0 {
			rows = append(rows, []string{result.Name, result.Status})
		} else {
			rows = append(rows, append([]string{result.Name}, result.cells(r.PID != 0)...))
		}
		switch {
		case result.Status != OK:
			notes = append(notes, fmt.Sprintf("%s: %s: %s", result.Name, result.Status, result.Reason))
		case result.LimitReached:
			notes = append(notes, fmt.Sprintf("%s: the time was over before all requests were made", result.Name))
		}
	}
	var text bytes.Buffer
	writeRows(&text, rows, len(head))
	for _, note := range notes {
		fmt.Fprintln(&text, note)
	}
	_, err := text.WriteTo(w)
	return err
}

// writeRows aligns the first column to the left and the figures to the right. A row that has no
// figures says why in its second cell, which may run on.
func writeRows(w io.Writer, rows [][]string, columns int) {
	widths := make([]int, columns)
	for _, row := range rows {
		for i, cell := range row {
			if i == 0 || len(row) == columns {
				widths[i] = max(widths[i], utf8.RuneCountInString(cell))
			}
		}
	}
	for _, row := range rows {
		for i, cell := range row {
			pad := strings.Repeat(" ", max(widths[i]-utf8.RuneCountInString(cell), 0))
			switch {
			case i == 0:
				fmt.Fprint(w, cell+pad)
			case len(row) < columns:
				fmt.Fprint(w, "  "+cell)
			default:
				fmt.Fprint(w, "  "+pad+cell)
			}
		}
		fmt.Fprintln(w)
	}
}

func (r *Result) cells(process bool) []string {
	cells := []string{
		humanize.Comma(int64(r.Requests)), humanize.Comma(int64(r.Errors)),
		rate(r.RequestsPerSecond), rate(r.ItemsPerSecond), fmt.Sprintf("%.1f", r.MegabytesPerSecond),
		fmt.Sprintf("%.2f", r.P50), fmt.Sprintf("%.2f", r.P95), fmt.Sprintf("%.2f", r.P99),
	}
	if !process {
		return cells
	}
	if r.Server == nil {
		return append(cells, "-", "-")
	}
	return append(cells, fmt.Sprintf("%.1f", r.Server.CPUPerItem*1e6), humanize.Comma(r.Server.PeakMemory/mib))
}

// rate shows three digits at least of what happens a few times a second.
func rate(perSecond float64) string {
	if perSecond < 100 {
		return fmt.Sprintf("%.1f", perSecond)
	}
	return humanize.Comma(int64(perSecond))
}
