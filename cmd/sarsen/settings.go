package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sarsen-build/sarsen/config"
	"github.com/sarsen-build/sarsen/segment"
)

// A value is a flag's text as it was typed. Only the configuration knows what it means.
type value struct{ text, kind string }

func (v *value) String() string        { return v.text }
func (v *value) Set(text string) error { v.text = text; return nil }
func (v *value) Type() string          { return v.kind }

// addSettings gives cmd a flag for every setting of the configuration, or for those of the given flags.
// The flags have no defaults of their own: one that was not given must not hide what the file says.
func addSettings(cmd *cobra.Command, only ...string) {
	for _, f := range config.Fields {
		if len(only) > 0 && !slices.Contains(only, f.Flag) {
			continue
		}
		usage := f.Usage
		if f.Default != "" {
			usage += fmt.Sprintf(" (default: %s)", f.Default)
		}
		cmd.Flags().Var(&value{kind: f.Value}, f.Flag, usage)
	}
	cmd.Flags().SortFlags = false
	complete(cmd, "durability", string(segment.Group), string(segment.Sync), string(segment.None))
	complete(cmd, "log-level", "debug", "info", "warn", "error")
	complete(cmd, "log-format", "text", "json")
	_ = cmd.MarkFlagDirname("dir")
	complete(cmd, "bucket-write", "through", "back")
	complete(cmd, "bucket-path-style", "auto", "true", "false")
	_ = cmd.MarkFlagFilename("backups", "yaml", "yml")
	_ = cmd.MarkFlagFilename("bucket-credentials", "yaml", "yml")
	complete(cmd, "redis-tls", "on", "off")
	_ = cmd.MarkFlagFilename("redis-credentials", "yaml", "yml")
	_ = cmd.MarkFlagFilename("redis-ca", "pem", "crt")
}

// isSetting tells a setting's flag from one of the command's own by the same name.
func isSetting(flag *pflag.Flag) bool {
	_, ok := flag.Value.(*value)
	return ok
}

// addConfigFile gives cmd the flag that names the file.
func addConfigFile(cmd *cobra.Command) {
	cmd.Flags().VarP(&value{kind: "FILE"}, "config", "c", "the configuration, in YAML; 'sarsen config print' shows every setting")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
}

// complete tells the shell what a flag can be.
func complete(cmd *cobra.Command, flag string, values ...string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// loadSettings returns the configuration of file (none if "") and of the flags that were given.
func loadSettings(cmd *cobra.Command, file string) (*config.Config, error) {
	var overrides []config.Override
	for _, f := range config.Fields {
		if flag := cmd.Flags().Lookup(f.Flag); flag != nil && flag.Changed && isSetting(flag) {
			overrides = append(overrides, config.Override{Flag: f.Flag, Value: flag.Value.String()})
		}
	}
	c, err := config.Load(file, overrides...)
	var bad *config.Error
	if errors.As(err, &bad) && bad.Origin.Flag != "" {
		err = &usageError{err}
	}
	return c, err
}
