package main

import (
	"github.com/spf13/cobra"
)

func newServeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Start a cache from a configuration file",
		Long: `Start what 'sarsen up' starts, with the settings of a file. Flags go over the file.

The file is read strictly: a field that no setting has is an error with its line and the nearest name.
'sarsen config print' shows every setting and where its value came from.`,
		Example: "  sarsen config print > sarsen.yaml\n  sarsen serve --config sarsen.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := loadSettings(cmd, cmd.Flag("config").Value.String())
			if err != nil {
				return err
			}
			return run(c, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	addConfigFile(cmd)
	addSettings(cmd)
	_ = cmd.MarkFlagRequired("config")
	return cmd
}
