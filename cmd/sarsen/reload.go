package main

import (
	"context"
	"os"
	"slices"

	"github.com/sarsen-build/sarsen/config"
)

// reloadOn reads the configuration again at each signal, until ctx ends, and applies what can change
// while serving: the limit. A file that can't be read changes nothing.
func (s *services) reloadOn(ctx context.Context, signals <-chan os.Signal, read func() (*config.Config, error)) {
	running := s.config
	for {
		select {
		case <-signals:
		case <-ctx.Done():
			return
		}
		c, err := read()
		if err == nil {
			running, err = s.apply(running, c)
		}
		if err != nil {
			s.log.Error("the configuration stays as it is", "err", err)
		}
	}
}

// apply makes of c what can be made of it, names what needs a restart, and returns what runs then.
func (s *services) apply(running, c *config.Config) (*config.Config, error) {
	changed := running.Changed(c)
	// A default that was computed is computed of the free space, which is another one by now.
	unset := config.Origin{}
	resize := slices.Contains(changed, "max-size") && (c.Origin("max-size") != unset || running.Origin("max-size") != unset)
	if resize {
		if err := s.ring.SetMaxSize(c.MaxSize); err != nil {
			return running, err
		}
		running = running.WithMaxSize(c)
	}
	changed = slices.DeleteFunc(changed, func(name string) bool { return name == "max-size" })
	s.log.Info("configuration read again", "max-size", config.FormatSize(running.MaxSize), "changed", resize)
	if len(changed) > 0 {
		s.log.Warn("these settings changed and need a restart", "settings", changed)
	}
	return running, nil
}
