package upstream

import (
	"fmt"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// ToProto returns d as REAPI has it. Its size must be known.
func ToProto(d digest.Digest) *repb.Digest {
	return &repb.Digest{Hash: d.Hex(), SizeBytes: d.Size}
}

// FromProto returns the digest that p says, or an error that wraps digest.ErrSyntax. The size on the
// wire is always known: -1, which stands for any size inside, is refused.
func FromProto(f digest.Function, p *repb.Digest) (digest.Digest, error) {
	if p.GetSizeBytes() < 0 {
		return digest.Digest{}, fmt.Errorf("%w: size %d is negative", digest.ErrSyntax, p.GetSizeBytes())
	}
	return digest.New(f, p.GetHash(), p.GetSizeBytes())
}

// Violations says which blobs are missing in the form that the comment on Execute gives, for the details of a
// FAILED_PRECONDITION: a violation of type MISSING for each, whose subject is its resource name without the
// instance. At most most of them are said.
func Violations(missing []digest.Digest, most int) *errdetails.PreconditionFailure {
	f := new(errdetails.PreconditionFailure)
	for _, d := range missing[:min(len(missing), most)] {
		f.Violations = append(f.Violations, &errdetails.PreconditionFailure_Violation{Type: "MISSING", Subject: "blobs/" + d.String()})
	}
	return f
}

// function returns f as REAPI has it; the numbers are the same.
func function(f digest.Function) repb.DigestFunction_Value { return repb.DigestFunction_Value(f) }

// sized refuses digests that REAPI can't say.
func sized(op string, d digest.Digest) error {
	if d.Size >= 0 && d.Function.Valid() {
		return nil
	}
	return &blob.Error{Op: op, Digest: d, Err: fmt.Errorf("%w: the protocol wants the size of a blob with its hash", blob.ErrInvalid)}
}

func (s *Store) prefixed(name string) string {
	if s.instance == "" {
		return name
	}
	return s.instance + "/" + name
}

// readName returns the resource name of a blob to read.
func (s *Store) readName(d digest.Digest) string { return s.prefixed("blobs/" + d.String()) }

// writeName returns a resource name for an upload that no other has.
func (s *Store) writeName(d digest.Digest) string {
	return s.prefixed("uploads/" + uuid.NewString() + "/blobs/" + d.String())
}
