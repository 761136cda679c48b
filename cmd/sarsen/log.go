package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"

	"github.com/sarsen-build/sarsen/config"
)

// newLogger returns the log that the configuration asks for. "text" is for people where w is a
// terminal, and slog's own text, which programs can read, where it is a file or a pipe.
func newLogger(c *config.Config, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return slog.New(newTerminalHandler(w, c.LogLevel))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// A terminalHandler logs for people: the time of day, the level unless it is info, the message, and
// the attributes as slog's text writes them.
type terminalHandler struct {
	attrs slog.Handler // writes the attributes alone, to out.text
	out   *terminal    // shared by all handlers that come of one
}

type terminal struct {
	mu   sync.Mutex
	w    io.Writer
	text bytes.Buffer
}

func newTerminalHandler(w io.Writer, level slog.Level) *terminalHandler {
	out := &terminal{w: w}
	attrs := slog.NewTextHandler(&out.text, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
				return slog.Attr{}
			}
			return a
		},
	})
	return &terminalHandler{attrs, out}
}

// Enabled implements slog.Handler.
func (h *terminalHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.attrs.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (h *terminalHandler) Handle(ctx context.Context, r slog.Record) error {
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	text := &h.out.text
	text.Reset()
	text.WriteString(r.Time.Format("15:04:05 "))
	if r.Level != slog.LevelInfo {
		fmt.Fprintf(text, "%s: ", strings.ToLower(r.Level.String()))
	}
	text.WriteString(r.Message + "  ")
	if err := h.attrs.Handle(ctx, r); err != nil {
		return err
	}
	_, err := fmt.Fprintln(h.out.w, strings.TrimSpace(text.String()))
	return err
}

// WithAttrs implements slog.Handler.
func (h *terminalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &terminalHandler{h.attrs.WithAttrs(attrs), h.out}
}

// WithGroup implements slog.Handler.
func (h *terminalHandler) WithGroup(name string) slog.Handler {
	return &terminalHandler{h.attrs.WithGroup(name), h.out}
}
