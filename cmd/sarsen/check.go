package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sarsen-build/sarsen/s3/bucket"
)

func newCheckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check what Sarsen relies on",
		Long:  "Check whether something that Sarsen relies on does what it must.",
		Args:  subcommandOnly,
		RunE:  printHelp,
	}
	s3 := &cobra.Command{
		Use:   "s3 [--bucket NAME | --config FILE]",
		Short: "Check whether a bucket keeps what Sarsen relies on",
		Long: `Write, read, list and delete some small objects in a bucket, and one of 5 MiB, and see whether its server keeps
what Sarsen relies on: conditional writes of which one wins, listings that are up to date, refusal of requests that
are too old, uploads in parts, deletes of a thousand objects.
Do this before a server of another kind or version is trusted with data. The status is 1 if anything is missing.`,
		Example: "  sarsen check s3 --bucket builds --bucket-endpoint https://minio.example:9000",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := loadSettings(cmd, cmd.Flag("config").Value.String())
			if err != nil {
				return err
			}
			if c.Bucket.Name == "" {
				return &usageError{errors.New("which bucket? Name it with --bucket or --config")}
			}
			b, err := openBucket(cmd.Context(), c.Bucket)
			if err != nil {
				return err
			}
			found, err := bucket.Check(cmd.Context(), b.WithPartSize(bucket.MinPart), "check/")
			if err != nil {
				return explainBucket(c.Bucket, err)
			}
			return printFindings(cmd.OutOrStdout(), found)
		},
	}
	addConfigFile(s3)
	addSettings(s3, bucketFlags...)
	cmd.AddCommand(s3, newCheckRedisCommand())
	return cmd
}

func printFindings(w io.Writer, found []bucket.Finding) error {
	lacks := 0
	for _, f := range found {
		text := "yes"
		switch {
		case f.Err != nil && f.Must:
			text = "NO "
			lacks++
		case f.Err != nil:
			text = "no "
		}
		text += "  " + f.What
		if f.Err != nil {
			text += fmt.Sprintf(": %v", f.Err)
		}
		if _, err := fmt.Fprintln(w, text); err != nil {
			return err
		}
	}
	if lacks > 0 {
		return fmt.Errorf("%s that Sarsen relies on, so this bucket must not be used; data would be lost", count(int64(lacks), "thing is missing", "things are missing"))
	}
	return nil
}
