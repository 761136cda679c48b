package server

import (
	"context"
	"math"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"github.com/bazelbuild/remote-apis/build/bazel/semver"

	"github.com/sarsen-build/sarsen/chunk/mapping"
	"github.com/sarsen-build/sarsen/digest"
)

type capabilities struct {
	repb.UnimplementedCapabilitiesServer
	maxBlobSize int64
	executes    bool
	chunks      *mapping.Index // or nil
}

// GetCapabilities says what is served, which is the same for all instances. Endpoints that have a
// cache only leave execution_capabilities out. The low version is 2.0 because some released Bazels
// speak nothing newer.
func (c *capabilities) GetCapabilities(context.Context, *repb.GetCapabilitiesRequest) (*repb.ServerCapabilities, error) {
	zstd := []repb.Compressor_Value{repb.Compressor_ZSTD}
	var execution *repb.ExecutionCapabilities
	if c.executes {
		execution = &repb.ExecutionCapabilities{
			DigestFunction: repb.DigestFunction_SHA256, DigestFunctions: advertised(), ExecEnabled: true,
			ExecutionPriorityCapabilities: &repb.PriorityCapabilities{Priorities: []*repb.PriorityCapabilities_PriorityRange{
				{MinPriority: math.MinInt32, MaxPriority: math.MaxInt32},
			}},
			SupportedNodeProperties: []string{"UnixMode", "MTime"},
		}
	}
	var fastCDC *repb.FastCdc2020Params
	if c.chunks != nil {
		fastCDC = &repb.FastCdc2020Params{AvgChunkSizeBytes: uint64(c.chunks.Cutter().Average()), Seed: c.chunks.Cutter().Seed()}
	}
	return &repb.ServerCapabilities{
		ExecutionCapabilities: execution,
		CacheCapabilities: &repb.CacheCapabilities{
			DigestFunctions:                 advertised(),
			ActionCacheUpdateCapabilities:   &repb.ActionCacheUpdateCapabilities{UpdateEnabled: true},
			MaxBatchTotalSizeBytes:          maxBatch,
			SymlinkAbsolutePathStrategy:     repb.SymlinkAbsolutePathStrategy_ALLOWED,
			SupportedCompressors:            zstd,
			SupportedBatchUpdateCompressors: zstd,
			MaxCasBlobSizeBytes:             c.maxBlobSize,
			SplitBlobSupport:                c.chunks != nil,
			SpliceBlobSupport:               c.chunks != nil,
			FastCdc_2020Params:              fastCDC,
		},
		LowApiVersion:  &semver.SemVer{Major: 2},
		HighApiVersion: &semver.SemVer{Major: 2, Minor: 13},
	}, nil
}

func advertised() []repb.DigestFunction_Value {
	var fs []repb.DigestFunction_Value
	for _, f := range digest.Functions {
		fs = append(fs, repb.DigestFunction_Value(f))
	}
	return fs
}

// functionOf returns the digest function of a request's digest_function field. Left unset it is to be
// inferred from the hashes' length, among the functions that may be left out: that is SHA-256 or an
// error, which parsing the hash then gives.
func functionOf(v repb.DigestFunction_Value) (digest.Function, error) {
	if v == repb.DigestFunction_UNKNOWN {
		return digest.SHA256, nil
	}
	for _, f := range digest.Functions {
		if repb.DigestFunction_Value(f) == v {
			return f, nil
		}
	}
	return 0, invalid("digest_function: %v is not supported, only SHA256 and BLAKE3", v)
}

// digestOf returns the digest in a request's field. The size on the wire is always known: -1, which
// stands for any size inside, is refused.
func digestOf(f digest.Function, field string, p *repb.Digest) (digest.Digest, error) {
	if p == nil {
		return digest.Digest{}, invalid("%s: missing", field)
	}
	d, err := parseDigest(f, p.GetHash(), p.GetSizeBytes())
	if err != nil {
		return digest.Digest{}, inField(field+"."+err.field, err.err)
	}
	return d, nil
}

// A digestError says which field of a Digest message is wrong.
type digestError struct {
	field string
	err   error
}

func parseDigest(f digest.Function, hash string, size int64) (digest.Digest, *digestError) {
	if size < 0 {
		return digest.Digest{}, &digestError{"size_bytes", invalid("%d is negative", size)}
	}
	d, err := digest.New(f, hash, size)
	if err == nil {
		return d, nil
	}
	if _, hashErr := digest.New(f, hash, digest.AnySize); hashErr == nil {
		return digest.Digest{}, &digestError{"size_bytes", err}
	}
	return digest.Digest{}, &digestError{"hash", err}
}
