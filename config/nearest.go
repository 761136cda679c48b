package config

import "strings"

// suggest names the known setting nearest to a dotted name, or all of them if none is near.
func suggest(name string) string {
	best, at := "", max(2, len(name)/3)+1
	for _, known := range knownNames() {
		d := distance(fold(name), fold(known))
		// The right name in the wrong section is near too, though less than the right section's.
		if last(name) == last(known) {
			d = min(d, 1)
		}
		if d < at {
			best, at = known, d
		}
	}
	if best == "" {
		return "known are " + strings.Join(knownNames(), ", ")
	}
	return "did you mean " + best + "?"
}

// knownNames returns the names of all settings and sections.
func knownNames() []string {
	var names []string
	section := ""
	for _, f := range Fields {
		if s, _, ok := strings.Cut(f.Name, "."); ok && s != section {
			section = s
			names = append(names, s)
		}
		names = append(names, f.Name)
	}
	return names
}

// fold makes names equal that differ only in how words are joined, and bounds what distance costs.
func fold(name string) string {
	return strings.NewReplacer("_", "-").Replace(strings.ToLower(clip(name)))
}

func last(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }

// distance is how many letters must be changed, added, left out or swapped with their neighbor to
// make b of a (the restricted Damerau-Levenshtein distance).
func distance(a, b string) int {
	before, row := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next := make([]int, len(b)+1)
		next[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}

func clip(text string) string {
	if len(text) > 100 {
		return text[:100] + "…"
	}
	return text
}
