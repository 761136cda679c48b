package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sarsen-build/sarsen/config"
)

func newConfigCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print or check a configuration",
		Long:  "Print the effective configuration, or check a configuration file. Neither starts anything.",
		Args:  subcommandOnly,
		RunE:  printHelp,
	}
	cmd.AddCommand(newConfigPrintCommand(), newConfigCheckCommand())
	return cmd
}

func newConfigPrintCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "print [--config FILE]",
		Short: "Print the effective configuration",
		Long: `Print the configuration that 'sarsen serve' would run with, every setting with where its value came
from: the default, a line of the file, or a flag. What is printed is itself a configuration file.`,
		Example: "  sarsen config print > sarsen.yaml\n  sarsen config print --config sarsen.yaml --lease 2h",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := loadSettings(cmd, cmd.Flag("config").Value.String())
			if err != nil {
				return err
			}
			return c.Write(cmd.OutOrStdout())
		},
	}
	addConfigFile(cmd)
	addSettings(cmd)
	return cmd
}

func newConfigCheckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check --config FILE",
		Short: "Check a configuration file",
		Long: `Read a configuration file as 'sarsen serve' would and say what is wrong with it, each error with its
line. Nothing is started, and no port or directory is touched.`,
		Example: "  sarsen config check --config sarsen.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			file := cmd.Flag("config").Value.String()
			c, err := loadSettings(cmd, file)
			if err != nil {
				return err
			}
			if _, err := backupAccess(c.Backups); err != nil {
				return err
			}
			if c.PBS != "" {
				if _, _, err := pbsAccounts(c); err != nil {
					return err
				}
			}
			if c.Bucket.Credentials != "" {
				if _, err := config.LoadBucketKeys(c.Bucket.Credentials); err != nil {
					return err
				}
			}
			if err := checkSharing(c.Redis); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: ok\n", file)
			return err
		},
	}
	addConfigFile(cmd)
	addSettings(cmd)
	_ = cmd.MarkFlagRequired("config")
	return cmd
}
