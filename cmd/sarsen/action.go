package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/client"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/upstream"
)

// An actionPrinter writes an action and its result. Its writer keeps the first error.
type actionPrinter struct {
	w        io.Writer
	client   *client.Client
	function digest.Function
}

// line writes a heading at the left and what belongs to it.
func (p *actionPrinter) line(heading, format string, args ...any) {
	fmt.Fprintf(p.w, "%-20s %s\n", heading, fmt.Sprintf(format, args...))
}

func (p *actionPrinter) action(ctx context.Context, action *repb.Action) error {
	if action.Timeout != nil {
		p.line("  timeout", "%s", action.Timeout.AsDuration())
	}
	if action.DoNotCache {
		p.line("  do not cache", "yes")
	}
	if len(action.Salt) > 0 {
		p.line("  salt", "%x", action.Salt)
	}
	p.platform(action.Platform)
	if err := p.command(ctx, action); err != nil {
		return err
	}
	root, err := upstream.FromProto(p.function, action.InputRootDigest)
	if err != nil {
		p.line("input root", "%v", err)
		return nil
	}
	tree, err := p.client.Tree(ctx, root)
	switch {
	case errors.Is(err, blob.ErrNotFound):
		p.line("input root", "%s, missing", root)
	case err != nil:
		return err
	default:
		p.line("input root", "%s", root)
		p.line("", "%s", summarize(tree.Summary()))
	}
	return nil
}

func (p *actionPrinter) platform(platform *repb.Platform) {
	for _, property := range platform.GetProperties() {
		p.line("  platform", "%s=%s", printable(property.Name), printable(property.Value))
	}
}

func (p *actionPrinter) command(ctx context.Context, action *repb.Action) error {
	d, err := upstream.FromProto(p.function, action.CommandDigest)
	if err != nil {
		p.line("command", "%v", err)
		return nil
	}
	command, err := p.client.Command(ctx, d)
	if errors.Is(err, blob.ErrNotFound) {
		p.line("command", "%s, missing", d)
		return nil
	}
	if err != nil {
		return err
	}
	p.line("command", "%s", d)
	arguments := make([]string, len(command.Arguments))
	for i, argument := range command.Arguments {
		arguments[i] = quote(argument)
	}
	p.line("  arguments", "%s", strings.Join(arguments, " "))
	if command.WorkingDirectory != "" {
		p.line("  working directory", "%s", printable(command.WorkingDirectory))
	}
	for _, variable := range command.EnvironmentVariables {
		p.line("  environment", "%s=%s", printable(variable.Name), quote(variable.Value))
	}
	//lint:ignore SA1019 older clients set the platform here
	p.platform(command.Platform)
	p.paths("  output", command.OutputPaths)
	//lint:ignore SA1019 clients of API 2.0 set these two
	p.paths("  output file", command.OutputFiles)
	//lint:ignore SA1019 clients of API 2.0 set these two
	p.paths("  output directory", command.OutputDirectories)
	return nil
}

func (p *actionPrinter) paths(heading string, list []string) {
	for _, path := range list {
		p.line(heading, "%s", printable(path))
	}
}

func (p *actionPrinter) result(ctx context.Context, result *repb.ActionResult) error {
	p.line("result", "exit status %d", result.ExitCode)
	if meta := result.ExecutionMetadata; meta != nil {
		if meta.Worker != "" {
			p.line("  worker", "%s", printable(meta.Worker))
		}
		if start, end := meta.ExecutionStartTimestamp, meta.ExecutionCompletedTimestamp; start != nil && end != nil {
			p.line("  executed in", "%s", end.AsTime().Sub(start.AsTime()))
		}
	}
	for _, f := range result.OutputFiles {
		mark := ""
		if f.IsExecutable {
			mark = "  (executable)"
		}
		p.line("  output file", "%s  %s%s", label(p.function, f.Digest), printable(f.Path), mark)
	}
	for _, d := range result.OutputDirectories {
		if d.TreeDigest != nil {
			p.line("  output directory", "%s  %s/  (a Tree message)", label(p.function, d.TreeDigest), printable(d.Path))
		}
		if d.RootDirectoryDigest != nil {
			p.line("  output directory", "%s  %s/", label(p.function, d.RootDirectoryDigest), printable(d.Path))
		}
	}
	//lint:ignore SA1019 clients of API 2.0 set the latter two
	for _, links := range [][]*repb.OutputSymlink{result.OutputSymlinks, result.OutputFileSymlinks, result.OutputDirectorySymlinks} {
		for _, l := range links {
			p.line("  output link", "%s -> %s", printable(l.Path), printable(l.Target))
		}
	}
	p.stream("  stdout", result.StdoutDigest, result.StdoutRaw)
	p.stream("  stderr", result.StderrDigest, result.StderrRaw)
	return p.missing(ctx, result)
}

func (p *actionPrinter) stream(heading string, d *repb.Digest, raw []byte) {
	switch {
	case d != nil:
		p.line(heading, "%s", label(p.function, d))
	case len(raw) > 0:
		p.line(heading, "%s, inline", count(int64(len(raw)), "byte", "bytes"))
	}
}

// missing says which of the blobs that the result names are not there.
func (p *actionPrinter) missing(ctx context.Context, result *repb.ActionResult) error {
	named, err := p.client.Closure(ctx, p.function, result)
	if err != nil {
		return err
	}
	missing, err := p.client.Missing(ctx, named)
	if err != nil {
		return err
	}
	if missing.Len() == 0 {
		p.line("  missing", "none of %s", count(int64(named.Len()), "blob", "blobs"))
		return nil
	}
	p.line("  missing", "%d of %s", missing.Len(), count(int64(named.Len()), "blob", "blobs"))
	for _, d := range missing.List() {
		p.line("", "%s", d)
	}
	return nil
}

// quote returns text as one word of a POSIX shell.
func quote(text string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("@%+=:,./-_", r)
	}
	switch {
	case printable(text) != text:
		return printable(text)
	case strings.ContainsFunc(text, func(r rune) bool { return !plain(r) }):
		return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
	}
	return text
}
