package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/sarsen-build/sarsen/s3"
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
		err = printCondition(cmd.OutOrStdout(), found)
	}
	if err == nil && !found.Sound() {
		err = fmt.Errorf("%s damaged, %s of backups incomplete", count(int64(len(found.Problems)), "object", "objects"), count(int64(len(found.Incomplete)), "root", "roots"))
	}
	return err
}

func printCondition(w io.Writer, c s3.Condition) error {
	for _, p := range c.Problems {
		if _, err := fmt.Fprintf(w, "damaged object: %s: %s\n", p.Key, p.What); err != nil {
			return err
		}
	}
	for _, p := range c.Incomplete {
		if _, err := fmt.Fprintf(w, "incomplete root: %s: %s\n", p.Key, p.What); err != nil {
			return err
		}
	}
	for _, key := range c.Strange {
		if _, err := fmt.Fprintf(w, "strange object: %s\n", key); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%s with %s, %s verified; %s; %s superfluous, %s about to be deleted; %d damaged\n",
		count(c.Objects, "object", "objects"), humanize.IBytes(uint64(c.Bytes)), humanize.Comma(c.Verified), count(int64(c.Roots), "root", "roots"),
		humanize.Comma(c.Seconds), humanize.Comma(c.Condemned), len(c.Problems)+len(c.Incomplete))
	return err
}
