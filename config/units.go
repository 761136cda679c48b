package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// ParseSize reads a number of bytes: "50GB" is 50 times 10^9, "16 MiB" is 16 times 2^20.
func ParseSize(text string) (int64, error) {
	n, err := humanize.ParseBytes(text)
	if err != nil || n > math.MaxInt64 {
		return 0, fmt.Errorf("%q is not a size; write a number and a unit, like 50GB or 16MiB", text)
	}
	return int64(n), nil
}

var sizes = []struct {
	name  string
	bytes int64
}{
	{"PiB", 1 << 50}, {"PB", 1e15}, {"TiB", 1 << 40}, {"TB", 1e12}, {"GiB", 1 << 30}, {"GB", 1e9},
	{"MiB", 1 << 20}, {"MB", 1e6}, {"KiB", 1 << 10}, {"kB", 1e3},
}

// FormatSize writes n so that ParseSize gives n again: in the largest unit of which n is a multiple.
func FormatSize(n int64) string {
	for _, unit := range sizes {
		if n != 0 && n%unit.bytes == 0 {
			return strconv.FormatInt(n/unit.bytes, 10) + unit.name
		}
	}
	return strconv.FormatInt(n, 10) + "B"
}

const day = 24 * time.Hour

// ParseDuration reads what time.ParseDuration reads, and days before it: "90m", "2d", "1d12h".
func ParseDuration(text string) (time.Duration, error) {
	bad := fmt.Errorf("%q is not a duration; write numbers and units, like 90m, 1h or 2d", text)
	days, rest, ok := strings.Cut(text, "d")
	if !ok {
		d, err := time.ParseDuration(text)
		if err != nil {
			return 0, bad
		}
		return d, nil
	}
	// 16 bits of days are 179 years, which fit into a Duration together with what a Duration adds.
	n, err := strconv.ParseUint(days, 10, 16)
	if err != nil {
		return 0, bad
	}
	var d time.Duration
	if rest != "" {
		if d, err = time.ParseDuration(rest); err != nil || d < 0 || d >= day {
			return 0, bad
		}
	}
	return time.Duration(n)*day + d, nil
}

// FormatDuration writes d so that ParseDuration gives d again, without the zeros of d.String.
func FormatDuration(d time.Duration) string {
	if d != 0 && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
