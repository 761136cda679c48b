package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sarsen-build/sarsen/client"
	"github.com/sarsen-build/sarsen/config"
	"github.com/sarsen-build/sarsen/internal/snapshotpb"
	"github.com/sarsen-build/sarsen/snapshot"
)

func newSnapshotForgetCommand() *cobra.Command {
	var (
		s      snapshotCommand
		policy snapshot.Policy
		within string
		ids    []string
		dry    bool
	)
	cmd := &cobra.Command{
		Use:   "forget [NAME...]",
		Short: "Let go of snapshots by rule",
		Long: `Let go of the snapshots of each NAME, or of all names, that no rule keeps. Rules count for each name by itself; hours and
days are this machine's. They apply in the order last, hourly, daily, weekly, monthly, yearly, as in Proxmox Backup
Server: each leaves out the hours, days ... of which a rule before it kept one. What --keep-within and --keep-tag keep
counts for no other rule. The room comes back by eviction. With --id, exactly those go.`,
		Example: "  sarsen snapshot forget --keep-last 3 --keep-daily 7 --keep-weekly 8 --keep-tag release --dry-run\n  sarsen snapshot forget --id 20260105T100000Z-abcdefgh",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if within != "" {
				if policy.Within, err = config.ParseDuration(within); err != nil {
					return &usageError{fmt.Errorf("--keep-within: %w", err)}
				}
			}
			if r := policy.Rules; min(r.Last, r.Hourly, r.Daily, r.Weekly, r.Monthly, r.Yearly) < 0 {
				return &usageError{errors.New("a --keep rule takes a number of snapshots, which is not negative")}
			}
			if policy.IsZero() == (len(ids) == 0) || len(ids) > 0 && len(args) > 0 {
				return errNoRule
			}
			return s.forget(cmd, args, ids, policy, dry)
		},
	}
	s.flags(cmd)
	for _, f := range []struct {
		n    *int
		name string
		what string
	}{
		{&policy.Last, "last", "the newest N"}, {&policy.Hourly, "hourly", "the newest of each of the last N hours that have one"},
		{&policy.Daily, "daily", "likewise of days"}, {&policy.Weekly, "weekly", "likewise of weeks, which begin on Monday"},
		{&policy.Monthly, "monthly", "likewise of months"}, {&policy.Yearly, "yearly", "likewise of years"},
	} {
		cmd.Flags().IntVar(f.n, "keep-"+f.name, 0, "keep "+f.what)
	}
	cmd.Flags().StringVar(&within, "keep-within", "", "keep those that are at most so much older than the newest, as 36h or 14d")
	cmd.Flags().StringArrayVar(&policy.Tags, "keep-tag", nil, "keep those with this tag; may be given several times")
	cmd.Flags().StringArrayVar(&ids, "id", nil, "forget this snapshot; may be given several times")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would go, and let go of nothing")
	return cmd
}

func (s *snapshotCommand) forget(cmd *cobra.Command, names, ids []string, policy snapshot.Policy, dry bool) error {
	ctx := cmd.Context()
	c, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	all, why, err := chosen(ctx, c, names, ids, policy)
	if err != nil {
		return err
	}
	type line struct {
		shownSnapshot
		Kept []string `json:"kept_by"`
	}
	lines := []line{}
	for _, one := range all {
		lines = append(lines, line{shown(one), append([]string{}, why[one]...)})
		if len(why[one]) == 0 && !dry {
			if err := c.ReleaseSnapshot(ctx, one.Name, one.Id); err != nil {
				return err
			}
		}
	}
	if s.json {
		return printJSON(cmd.OutOrStdout(), lines)
	}
	return listSnapshots(cmd.OutOrStdout(), all, func(one *snapshotpb.Snapshot) string {
		switch {
		case len(why[one]) > 0:
			return "kept: " + strings.Join(why[one], ", ")
		case dry:
			return "would be forgotten"
		}
		return "forgotten"
	})
}

// chosen returns the snapshots that are spoken of, and why each of them stays, if it does.
func chosen(ctx context.Context, c *client.Client, names, ids []string, policy snapshot.Policy) (all []*snapshotpb.Snapshot, why map[*snapshotpb.Snapshot][]string, err error) {
	why = map[*snapshotpb.Snapshot][]string{}
	for _, id := range ids {
		one, err := find(ctx, c, id)
		if err != nil {
			return nil, nil, err
		}
		if !strings.HasPrefix(one.Id, id) {
			return nil, nil, fmt.Errorf("%q is a name; --id takes the ID of one snapshot", id)
		}
		all = append(all, one)
	}
	if len(ids) > 0 {
		return all, why, nil
	}
	listed, err := c.Snapshots(ctx, "")
	if err != nil {
		return nil, nil, err
	}
	series := map[string][]*snapshotpb.Snapshot{}
	for _, one := range listed {
		if len(names) == 0 || slices.Contains(names, one.Name) {
			all = append(all, one)
			series[one.Name] = append(series[one.Name], one)
		}
	}
	for _, name := range names {
		if series[name] == nil {
			return nil, nil, fmt.Errorf("%s has no snapshot of the name %q; see 'sarsen snapshot list'", c.Target(), name)
		}
	}
	for _, of := range series {
		for one, rules := range policy.Apply(of, time.Local) {
			why[one] = rules
		}
	}
	return all, why, nil
}
