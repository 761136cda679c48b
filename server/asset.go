package server

import (
	"context"
	"fmt"
	"time"

	remoteasset "github.com/bazelbuild/remote-apis/build/bazel/remote/asset/v1"
	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/asset"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/upstream"
)

// What bounds an asset's names: each URI is a record, which holds it and the qualifiers.
const (
	maxURIs       = 64
	maxQualifiers = 64
	// maxName bounds a URI, and a qualifier's name and value, in bytes.
	maxName = 8 << 10
)

// assets serves both halves of the Remote Asset API.
type assets struct {
	index *asset.Index
	remoteasset.UnimplementedFetchServer
	remoteasset.UnimplementedPushServer
}

func (s *Server) registerAssets(x *asset.Index) {
	a := &assets{index: x}
	remoteasset.RegisterFetchServer(s.grpc, a)
	remoteasset.RegisterPushServer(s.grpc, a)
}

// An assetRequest is what the four requests have in common.
type assetRequest interface {
	GetInstanceName() string
	GetUris() []string
	GetQualifiers() []*remoteasset.Qualifier
	GetDigestFunction() repb.DigestFunction_Value
}

// A fetchRequest is what both Fetch requests have in common.
type fetchRequest interface {
	assetRequest
	GetOldestContentAccepted() *timestamppb.Timestamp
}

// A pushRequest is what both Push requests have in common.
type pushRequest interface {
	assetRequest
	GetExpireAt() *timestamppb.Timestamp
	GetReferencesBlobs() []*repb.Digest
	GetReferencesDirectories() []*repb.Digest
}

// FetchBlob returns the blob that was pushed under one of the URIs, or that the checksum names.
func (a *assets) FetchBlob(ctx context.Context, req *remoteasset.FetchBlobRequest) (*remoteasset.FetchBlobResponse, error) {
	uri, found, err := a.fetch(ctx, asset.Blob, req)
	if err != nil {
		return nil, err
	}
	return &remoteasset.FetchBlobResponse{
		Uri:            uri,
		Qualifiers:     req.GetQualifiers(),
		BlobDigest:     upstream.ToProto(found),
		DigestFunction: repb.DigestFunction_Value(found.Function),
	}, nil
}

// FetchDirectory returns the directory that was pushed under one of the URIs.
func (a *assets) FetchDirectory(ctx context.Context, req *remoteasset.FetchDirectoryRequest) (*remoteasset.FetchDirectoryResponse, error) {
	uri, found, err := a.fetch(ctx, asset.Directory, req)
	if err != nil {
		return nil, err
	}
	return &remoteasset.FetchDirectoryResponse{
		Uri:                 uri,
		Qualifiers:          req.GetQualifiers(),
		RootDirectoryDigest: upstream.ToProto(found),
		DigestFunction:      repb.DigestFunction_Value(found.Function),
	}, nil
}

// fetch returns what req asks for, leased. expires_at stays unset in the answer: the lease may be renewed,
// and a later push may take the asset's place.
func (a *assets) fetch(ctx context.Context, k asset.Kind, req fetchRequest) (uri string, d digest.Digest, err error) {
	name, err := assetName(k, req)
	if err != nil {
		return "", d, err
	}
	oldest, err := timeOf("oldest_content_accepted", req.GetOldestContentAccepted())
	if err != nil {
		return "", d, err
	}
	uri, found, err := a.index.Fetch(ctx, name, req.GetUris(), oldest)
	return uri, found.Digest, err
}

// PushBlob makes a blob what its URIs stand for.
func (a *assets) PushBlob(ctx context.Context, req *remoteasset.PushBlobRequest) (*remoteasset.PushBlobResponse, error) {
	if err := a.push(ctx, asset.Blob, req, "blob_digest", req.GetBlobDigest()); err != nil {
		return nil, err
	}
	return &remoteasset.PushBlobResponse{}, nil
}

// PushDirectory makes a directory, with all that is below it, what its URIs stand for.
func (a *assets) PushDirectory(ctx context.Context, req *remoteasset.PushDirectoryRequest) (*remoteasset.PushDirectoryResponse, error) {
	if err := a.push(ctx, asset.Directory, req, "root_directory_digest", req.GetRootDirectoryDigest()); err != nil {
		return nil, err
	}
	return &remoteasset.PushDirectoryResponse{}, nil
}

func (a *assets) push(ctx context.Context, k asset.Kind, req pushRequest, field string, own *repb.Digest) error {
	name, err := assetName(k, req)
	if err != nil {
		return err
	}
	pushed := asset.Asset{References: action.References{Function: name.Function}}
	if pushed.Digest, err = digestOf(name.Function, field, own); err != nil {
		return err
	}
	if pushed.Expires, err = timeOf("expire_at", req.GetExpireAt()); err != nil {
		return err
	}
	if pushed.References.Blobs, err = digestsOf(name.Function, "references_blobs", req.GetReferencesBlobs()); err != nil {
		return err
	}
	if pushed.References.Directories, err = digestsOf(name.Function, "references_directories", req.GetReferencesDirectories()); err != nil {
		return err
	}
	return a.index.Push(ctx, name, req.GetUris(), pushed)
}

// assetName checks what names an asset. A request without URIs is how clients ask whether they would be
// served: BuildStream wants INVALID_ARGUMENT for it, and nothing else.
func assetName(k asset.Kind, req assetRequest) (asset.Name, error) {
	uris, qualifiers := req.GetUris(), req.GetQualifiers()
	if len(uris) == 0 {
		return asset.Name{}, invalid("uris: missing, at least one is needed")
	}
	if len(uris) > maxURIs {
		return asset.Name{}, invalid("uris: %d of them, at most %d are taken", len(uris), maxURIs)
	}
	if len(qualifiers) > maxQualifiers {
		return asset.Name{}, invalid("qualifiers: %d of them, at most %d are taken", len(qualifiers), maxQualifiers)
	}
	for i, uri := range uris {
		if uri == "" || len(uri) > maxName {
			return asset.Name{}, invalid("uris[%d]: %d bytes long, want 1 to %d", i, len(uri), maxName)
		}
	}
	name := asset.Name{Instance: req.GetInstanceName(), Kind: k}
	seen := map[string]bool{}
	for i, q := range qualifiers {
		if q.GetName() == "" || len(q.GetName()) > maxName {
			return asset.Name{}, invalid("qualifiers[%d].name: %d bytes long, want 1 to %d", i, len(q.GetName()), maxName)
		}
		if len(q.GetValue()) > maxName {
			return asset.Name{}, invalid("qualifiers[%d].value: %d bytes long, at most %d are taken", i, len(q.GetValue()), maxName)
		}
		if seen[q.GetName()] {
			return asset.Name{}, invalid("qualifiers[%d].name: %q is there twice", i, clip(q.GetName()))
		}
		seen[q.GetName()] = true
		name.Qualifiers = append(name.Qualifiers, asset.Qualifier{Name: q.GetName(), Value: q.GetValue()})
	}
	var err error
	name.Function, err = functionOf(req.GetDigestFunction())
	return name, err
}

// timeOf returns the time in a field, zero if it is unset.
func timeOf(field string, t *timestamppb.Timestamp) (time.Time, error) {
	if t == nil {
		return time.Time{}, nil
	}
	if err := t.CheckValid(); err != nil {
		return time.Time{}, invalid("%s: %v", field, err)
	}
	return t.AsTime(), nil
}

func digestsOf(f digest.Function, field string, ps []*repb.Digest) ([]digest.Digest, error) {
	ds := make([]digest.Digest, len(ps))
	for i, p := range ps {
		var err error
		if ds[i], err = digestOf(f, fmt.Sprintf("%s[%d]", field, i), p); err != nil {
			return nil, err
		}
	}
	return ds, nil
}
