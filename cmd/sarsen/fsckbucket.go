package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/sarsen-build/sarsen/s3"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// fsckBucket verifies the bucket that the command line names, beside the servers that there may be.
func fsckBucket(ctx context.Context, cmd *cobra.Command, quick, asJSON bool) error {
	c, err := loadSettings(cmd, cmd.Flag("config").Value.String())
	if err != nil {
		return err
	}
	b, err := openBucket(ctx, c.Bucket)
	if err != nil {
		return err
	}
	found, err := s3.Fsck(ctx, b, s3.Check{Bytes: !quick})
	if err != nil {
		return explainBucket(c.Bucket, err)
	}
	if asJSON {
		err = json.NewEncoder(cmd.OutOrStdout()).Encode(found)
	} else {
		err = printSurvey(cmd.OutOrStdout(), found)
	}
	if err == nil && !found.Sound() {
		err = fmt.Errorf("%s damaged, %s of backups incomplete", count(int64(len(found.Problems)), "object", "objects"), count(int64(len(found.Incomplete)), "root", "roots"))
	}
	return err
}

func printSurvey(w io.Writer, s s3.Survey) error {
	for _, p := range s.Problems {
		if _, err := fmt.Fprintf(w, "damaged object: %s: %s\n", p.Key, p.What); err != nil {
			return err
		}
	}
	for _, p := range s.Incomplete {
		if _, err := fmt.Fprintf(w, "incomplete root: %s: %s\n", p.Key, p.What); err != nil {
			return err
		}
	}
	for _, key := range s.Strange {
		if _, err := fmt.Fprintf(w, "strange object: %s\n", key); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%s with %s, %s verified; %s; %s superfluous, %s about to be deleted; %d damaged\n",
		count(s.Objects, "object", "objects"), humanize.IBytes(uint64(s.Bytes)), humanize.Comma(s.Verified), count(int64(s.Roots), "root", "roots"),
		humanize.Comma(s.SecondCopies), humanize.Comma(s.Condemned), len(s.Problems)+len(s.Incomplete))
	return err
}

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
