package main

import (
	"github.com/spf13/cobra"

	"github.com/sarsen-build/sarsen/config"
)

func newServeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Start a cache from a configuration file",
		Long: `Start what 'sarsen up' starts, but the worker, with the settings of a file. Flags go over the file.
Actions run on machines where 'sarsen worker' is started.

The file is read strictly: a field that no setting has is an error with its line and the nearest name.
'sarsen config print' shows every setting and where its value came from.

With --backups FILE there are only the backup repositories that this file names:

  restic:
    laptop:                       # rest:http://me:TOKEN@HOST:PORT/restic/laptop/
      token: TOKEN                # everybody, if there is none
      append-only: true           # TOKEN may add and read, and remove nothing but locks
      maintenance-token: OTHER    # may prune
      quota: 100GB
  casync:
    images: {token: TOKEN}        # http://me:TOKEN@HOST:PORT/casync/images/
  pbs:                            # with --pbs HOST:PORT, the Proxmox Backup Server protocol
    root@pam!laptop:              # a token of a user; without ! a user, who logs in with the secret
      secret: SECRET
      may:
        main: backup              # a datastore: some of read, backup, prune
        main/team: read, prune    # a namespace in it, and those below

With --bucket NAME what the disk has no room for stays in an S3 bucket, which several servers may share:

  bucket:
    name: builds
    endpoint: https://minio.example:9000   # none: AWS
    credentials: bucket.yaml               # access-key and secret-key; none: as AWS's own tools find them
    write: through                         # or back: acknowledged when the disk has it
    max-size: 5TB                          # collections leave so much; none: only garbage goes

With --redis HOST:PORT they see one another's writes at once. It may be lost, full or away at any time: that costs hits
of what others wrote, and nothing else.

  redis:
    address: redis.example:6379            # nodes of a cluster, or sentinels: several, with commas
    credentials: redis.yaml                # password, and username; none: SARSEN_REDIS_PASSWORD, SARSEN_REDIS_USERNAME
    tls: on                                # ca: FILE, unless the machine trusts the certificate

SIGHUP makes it read the file again: a new max-size counts at once, and the log names what needs a
restart. A file with an error changes nothing.`,
		Example: "  sarsen config print > sarsen.yaml\n  sarsen serve --config sarsen.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			load := func() (*config.Config, error) { return loadSettings(cmd, cmd.Flag("config").Value.String()) }
			c, err := load()
			if err != nil {
				return err
			}
			return run(c, load, nil, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	addConfigFile(cmd)
	addSettings(cmd)
	_ = cmd.MarkFlagRequired("config")
	return cmd
}
