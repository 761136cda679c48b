//go:build unix

package launch

import (
	"os"
	"os/signal"
	"syscall"
	"time"
)

func now() int64 { return time.Now().UnixNano() }

// passSignals hands signals that end a process on to the compiler until the function is called that it returns:
// the compiler decides what they mean, and this process ends as it does.
func passSignals(pid int) (stop func()) {
	c := make(chan os.Signal, 8)
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-c:
				syscall.Kill(pid, s.(syscall.Signal))
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(c)
		close(done)
	}
}

// dieOf ends this process by the signal that ended the compiler.
func dieOf(s syscall.Signal) {
	signal.Reset(s)
	syscall.Kill(os.Getpid(), s)
	time.Sleep(Patience) // signals that dump core or were blocked may take a moment
}

// splitHeaders takes from a compiler's standard error what -H adds: a line of dots and a name for each
// header, one with ! or x for each precompiled one, and a list of those without guards at the end.
func splitHeaders(stderr []byte) (rest []byte, headers []string) {
	known := map[string]bool{}
	start := 0 // of the line before
	before := false
	for len(stderr) > 0 {
		line := stderr
		for i, c := range stderr {
			if c == '\n' {
				line = stderr[:i+1]
				break
			}
		}
		stderr = stderr[len(line):]
		text := line
		if n := len(text); n > 0 && text[n-1] == '\n' {
			text = text[:n-1]
		}
		if name, ok := header(text); ok {
			headers, known[name], before = append(headers, name), true, false
			continue
		}
		if known[string(text)] || isPredefined(text) {
			if before && len(rest) > start+1 && rest[len(rest)-2] == ':' {
				rest = rest[:start] // the list's title, in whatever language
			}
			before = false
			continue
		}
		start, before = len(rest), true
		rest = append(rest, line...)
	}
	return rest, headers
}

// isPredefined reports whether a line is the name of the header that gcc includes by itself. It is not among the others, but
// it may be in the list.
func isPredefined(line []byte) bool {
	const name = "/stdc-predef.h"
	return len(line) > len(name) && string(line[len(line)-len(name):]) == name
}

// header returns the name in a line of -H.
func header(line []byte) (string, bool) {
	n := 0
	for n < len(line) && line[n] == '.' {
		n++
	}
	if n == 0 && len(line) > 5 && (line[0] == '!' || line[0] == 'x') && string(line[len(line)-4:]) == ".gch" {
		n = 1
	}
	if n == 0 || n+1 >= len(line) || line[n] != ' ' {
		return "", false
	}
	return string(line[n+1:]), true
}
