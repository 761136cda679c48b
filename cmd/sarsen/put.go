package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/sarsen-build/sarsen/client"
	"github.com/sarsen-build/sarsen/digest"
)

func newPutCommand() *cobra.Command {
	var (
		to   remote
		name string
	)
	cmd := &cobra.Command{
		Use:   "put FILE...",
		Short: "Store files as blobs and print their digests",
		Long: `Store each file as a blob, unless the server has it already, and print a line 'DIGEST  FILE' for it.
A digest is HASH/SIZE, or blake3/HASH/SIZE with --digest-function blake3; get, ls, tree and action take it.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, ok := digest.FunctionNamed(name)
			if !ok {
				return fmt.Errorf("unknown digest function %q; --digest-function takes sha256 or blake3", name)
			}
			c, err := to.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			return putFiles(cmd.Context(), c, f, args, cmd.OutOrStdout())
		},
	}
	to.flags(cmd)
	cmd.Flags().StringVar(&name, "digest-function", digest.SHA256.String(), "what to hash with: sha256 or blake3")
	return cmd
}

// putFiles stores the files and writes a line for each that is on the server for certain.
func putFiles(ctx context.Context, c *client.Client, f digest.Function, files []string, w io.Writer) error {
	ds := make([]digest.Digest, len(files))
	for i, file := range files {
		var err error
		if ds[i], err = hashFile(f, file); err != nil {
			return err
		}
	}
	missing, err := c.Missing(ctx, digest.SetOf(ds...))
	if err != nil {
		return err
	}
	for i, file := range files {
		if missing.Has(ds[i]) {
			if err := putFile(ctx, c, ds[i], file); err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
		}
		if _, err := fmt.Fprintf(w, "%s  %s\n", ds[i], file); err != nil {
			return err
		}
	}
	return nil
}

func putFile(ctx context.Context, c *client.Client, d digest.Digest, file string) error {
	source, err := os.Open(file)
	if err != nil {
		return err
	}
	defer source.Close()
	return c.Put(ctx, d, source)
}

func hashFile(f digest.Function, file string) (digest.Digest, error) {
	source, err := os.Open(file)
	if err != nil {
		return digest.Digest{}, err
	}
	defer source.Close()
	if info, err := source.Stat(); err != nil {
		return digest.Digest{}, err
	} else if !info.Mode().IsRegular() {
		return digest.Digest{}, &os.PathError{Op: "put", Path: file, Err: errors.New("not a regular file")}
	}
	hash := f.NewHash()
	size, err := io.Copy(hash, source)
	if err != nil {
		return digest.Digest{}, err
	}
	d := digest.Digest{Function: f, Size: size}
	hash.Sum(d.Hash[:0])
	return d, nil
}
