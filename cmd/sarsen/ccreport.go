package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/sarsen-build/sarsen/compiler"
	"github.com/sarsen-build/sarsen/compiler/args"
	"github.com/sarsen-build/sarsen/config"
)

// A ccReport prints what sarsen cc is asked.
type ccReport struct {
	out  io.Writer
	json bool
}

// stats prints the statistics. They are in a file, so that it needs no daemon.
func (r *ccReport) stats(dir string) error {
	counters, err := compiler.ReadCounters(compiler.CountersIn(dir))
	if err != nil {
		return err
	}
	reply, err := askCompiler(dir, compiler.Question{Verb: "stats"}, false)
	if err == nil {
		counters = reply.Counters
	} else {
		reply = nil
	}
	groups := map[string]map[string]uint64{}
	for name, n := range counters {
		group, name, _ := strings.Cut(name, ".")
		if groups[group] == nil {
			groups[group] = map[string]uint64{}
		}
		groups[group][name] = n
	}
	if r.json {
		all := map[string]any{"hit": map[string]uint64{}, "miss": map[string]uint64{}, "pass": map[string]uint64{}}
		for group, names := range groups {
			all[group] = names
		}
		if reply != nil {
			all["store"] = map[string]int64{
				"used_bytes": reply.UsedBytes, "max_bytes": reply.MaxBytes, "results": int64(reply.Entries), "waiting_uploads": reply.Waiting,
			}
		}
		e := json.NewEncoder(r.out)
		e.SetIndent("", "  ")
		return e.Encode(all)
	}
	w := tabwriter.NewWriter(r.out, 0, 8, 2, ' ', 0)
	defer w.Flush()
	r.rate(w, groups)
	for _, group := range slices.Sorted(maps.Keys(groups)) {
		for _, name := range slices.Sorted(maps.Keys(groups[group])) {
			fmt.Fprintf(w, "%s\t%d\n", ccWords(group, name), groups[group][name])
		}
	}
	if reply == nil {
		fmt.Fprintf(w, "daemon\tnot running\n")
		return nil
	}
	fmt.Fprintf(w, "store\t%s of %s\n", config.FormatSize(reply.UsedBytes), config.FormatSize(reply.MaxBytes))
	if reply.Waiting > 0 {
		fmt.Fprintf(w, "uploads that wait\t%d\n", reply.Waiting)
	}
	return nil
}

func (r *ccReport) rate(w io.Writer, groups map[string]map[string]uint64) {
	sum := func(group string) (n uint64) {
		for _, v := range groups[group] {
			n += v
		}
		return n
	}
	hits, misses := sum("hit"), sum("miss")
	share := "-"
	if hits+misses > 0 {
		share = fmt.Sprintf("%.1f %%", 100*float64(hits)/float64(hits+misses))
	}
	fmt.Fprintf(w, "hits\t%d of %d\t%s\n", hits, hits+misses, share)
}

// ccWords returns what a counter is called for people.
func ccWords(group, name string) string {
	text := strings.ReplaceAll(name, "_", " ")
	if group == "pass" {
		if reason := args.Reason(name); slices.Contains(args.Reasons, reason) {
			text = reason.Text()
		}
		return "passed through: " + text
	}
	return strings.ReplaceAll(group, "_", " ") + ": " + text
}

// explain says why the last compile of a source was a miss.
func (r *ccReport) explain(dir, file string) error {
	path, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	reply, err := askCompilerDaemon(dir, compiler.Question{Verb: "explain", Path: path})
	if err != nil {
		return err
	}
	if r.json {
		return json.NewEncoder(r.out).Encode(map[string]any{"file": path, "reasons": reply.Sentences})
	}
	for _, s := range reply.Sentences {
		fmt.Fprintln(r.out, s)
	}
	return nil
}

// A ccCommand is an entry of compile_commands.json.
type ccCommand struct {
	Directory string   `json:"directory"`
	File      string   `json:"file"`
	Command   string   `json:"command"`
	Arguments []string `json:"arguments"`
}

// dryRun says which compiles of a compilation database can be cached.
func (r *ccReport) dryRun(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var commands []ccCommand
	if err := json.Unmarshal(text, &commands); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	type verdict struct {
		File   string `json:"file"`
		Reason string `json:"reason,omitempty"` // "" if it can be cached
	}
	var verdicts []verdict
	cacheable := 0
	for _, c := range commands {
		reason := ""
		if err := c.check(); err != nil {
			reason = err.Error()
		} else {
			cacheable++
		}
		verdicts = append(verdicts, verdict{c.File, reason})
	}
	if r.json {
		return json.NewEncoder(r.out).Encode(map[string]any{"cacheable": cacheable, "commands": verdicts})
	}
	for _, v := range verdicts {
		if v.Reason != "" {
			fmt.Fprintf(r.out, "%s: %s\n", v.File, v.Reason)
		}
	}
	fmt.Fprintf(r.out, "%d of %d can be cached\n", cacheable, len(commands))
	return nil
}

// check returns why a command can't be cached.
func (c *ccCommand) check() error {
	argv := c.Arguments
	if len(argv) == 0 {
		argv = splitCommand(c.Command)
	}
	if len(argv) == 0 {
		return errors.New("no command")
	}
	return compiler.Check(argv, c.Directory, os.Environ())
}

// splitCommand parts a command line into words as a shell does, without expanding anything.
func splitCommand(text string) []string {
	var words []string
	var word []byte
	var quote byte
	inside := false
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '\\' && quote != '\'' && i+1 < len(text):
			i++
			word, inside = append(word, text[i]), true
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote, inside = c, true
		case quote == 0 && (c == ' ' || c == '\t' || c == '\n'):
			if inside {
				words, word, inside = append(words, string(word)), word[:0], false
			}
		default:
			word, inside = append(word, c), true
		}
	}
	if inside {
		words = append(words, string(word))
	}
	return words
}
