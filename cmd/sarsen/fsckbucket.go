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
