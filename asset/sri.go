package asset

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// Checksum is the qualifier whose value is what the W3C's Subresource Integrity calls integrity metadata:
// checksums with their functions, of which one has to be right. Bazel's downloader sends it.
const Checksum = "checksum.sri"

// sums returns the SHA-256 hashes that n's checksum.sri lists, as digests without a size, and whether it
// lists others, which can't be compared with anything here. A hash that is none is digest.ErrSyntax.
func (n Name) sums() (sums []digest.Digest, others bool, err error) {
	for _, q := range n.Qualifiers {
		if q.Name != Checksum {
			continue
		}
		for _, sum := range strings.Fields(q.Value) {
			function, text, _ := strings.Cut(sum, "-")
			if !strings.EqualFold(function, "sha256") {
				others = true
				continue
			}
			text, _, _ = strings.Cut(text, "?") // options, of which none is defined
			// Both alphabets of base64 are allowed there, and the padding does not say anything.
			text = strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(text), "=")
			hash, err := base64.RawStdEncoding.DecodeString(text)
			if err != nil || len(hash) != 32 {
				return nil, false, fmt.Errorf("%w: %s %q: want sha256- and 32 bytes in base64", digest.ErrSyntax, Checksum, sum)
			}
			sums = append(sums, digest.Digest{Function: digest.SHA256, Hash: [32]byte(hash), Size: digest.AnySize})
		}
	}
	return sums, others, nil
}

// checkPushed refuses a blob of which it can be seen that its checksum.sri is another's.
func (n Name) checkPushed(d digest.Digest) error {
	sums, others, err := n.sums()
	if err != nil || n.Kind != Blob || d.Function != digest.SHA256 || len(sums) == 0 || others {
		return err
	}
	if !slices.ContainsFunc(sums, func(sum digest.Digest) bool { return sum.Hash == d.Hash }) {
		return fmt.Errorf("%w: blob %s is not what %s says", blob.ErrMismatch, d, Checksum)
	}
	return nil
}

// bySum returns the blob that n's checksum.sri names, leased, if it is there.
func (x *Index) bySum(ctx context.Context, n Name) (digest.Digest, bool, error) {
	sums, _, err := n.sums()
	if err != nil || n.Kind != Blob || n.Function != digest.SHA256 {
		return digest.Digest{}, false, err
	}
	for _, d := range sums {
		r, err := x.store.Open(ctx, d)
		if errors.Is(err, blob.ErrNotFound) {
			continue
		}
		if err != nil {
			return digest.Digest{}, false, err
		}
		d.Size = r.Size()
		missing, err := x.store.Missing(ctx, digest.SetOf(d))
		r.Close()
		if err != nil || missing.Len() == 0 {
			return d, err == nil, err
		}
	}
	return digest.Digest{}, false, nil
}
