package bucket

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"
)

// Options say where a bucket is and who asks.
type Options struct {
	Bucket   string
	Prefix   string // before every key, with its slash; "" for a bucket of our own
	Endpoint string // a URL; "" for AWS
	Region   string // "" is that of the environment or the profile, or us-east-1, which servers other than AWS mostly take
	// PathStyle puts the bucket's name into the path. Servers without a name of their own for each bucket need it.
	PathStyle bool

	// AccessKey and SecretKey are static credentials. Without them the environment, Profile of the shared
	// configuration, and the instance's or container's role are asked, in this order.
	AccessKey, SecretKey, SessionToken string
	Profile                            string

	CA        *x509.CertPool    // whom to trust; nil is the system's
	Transport http.RoundTripper // nil is one for many connections; tests put faults there

	// Attempts is how often a request is tried; 0 is 5. All requests together have a budget, so that a bucket that is
	// down is not asked five times as often.
	Attempts int
	// TryLimit is how long one try waits for its answer to begin, and then for it to end, each on top of the time that
	// its bytes take at 128 KiB/s; 0 is 20 s.
	TryLimit time.Duration
	// PartSize is from what size on an object is written in parts, and how large those are; at least MinPart, 0 is 64 MiB.
	PartSize int64
	// Parallel is how many parts of one object are written at once; 0 is 4.
	Parallel int
}

// An S3 is a bucket on a server that speaks S3.
type S3 struct {
	client   *s3.Client
	bucket   *string
	prefix   string
	options  Options
	partSize int64
	parallel int
}

var _ Bucket = (*S3)(nil)

// MinPart is how large all parts of an upload but its last must be at least
// (docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html).
const MinPart = 5 << 20

// Open returns the bucket that the options describe. It asks for credentials where they come from elsewhere, and
// nothing else: Probe says whether the bucket can be reached.
func Open(ctx context.Context, o Options) (*S3, error) {
	if o.Bucket == "" {
		return nil, &Error{"open", "", "name a bucket", ErrNoBucket}
	}
	if o.TryLimit == 0 {
		o.TryLimit = tryLimit
	}
	load := []func(*config.LoadOptions) error{
		config.WithRegion(o.Region),      // "" looks elsewhere
		config.WithLogger(logging.Nop{}), // what matters is an error, and that is returned
		config.WithHTTPClient(o.client()),
		config.WithRetryer(func() aws.Retryer {
			return retry.NewStandard(func(r *retry.StandardOptions) {
				r.MaxAttempts = 5
				if o.Attempts > 0 {
					r.MaxAttempts = o.Attempts
				}
				r.MaxBackoff = 10 * time.Second
				// What two did at once may be done again; a condition is then judged anew.
				r.Retryables = append(r.Retryables,
					retry.RetryableErrorCode{Codes: map[string]struct{}{"ConditionalRequestConflict": {}, "OperationAborted": {}}},
					retry.RetryableHTTPStatusCode{Codes: map[int]struct{}{http.StatusTooManyRequests: {}}})
			})
		}),
	}
	if o.AccessKey != "" {
		load = append(load, config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(o.AccessKey, o.SecretKey, o.SessionToken)))
	}
	if o.Profile != "" {
		load = append(load, config.WithSharedConfigProfile(o.Profile))
	}
	c, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, &Error{"open", o.Bucket, "see the profile and the shared configuration", fmt.Errorf("%w: %w", ErrNoCredentials, err)}
	}
	c.Region = cmp.Or(c.Region, "us-east-1")
	o.Region = c.Region
	b := &S3{bucket: aws.String(o.Bucket), prefix: o.Prefix, options: o, partSize: o.PartSize, parallel: o.Parallel}
	if b.partSize == 0 {
		b.partSize = 64 << 20
	}
	if b.parallel == 0 {
		b.parallel = 4
	}
	b.client = s3.NewFromConfig(c, func(so *s3.Options) {
		if o.Endpoint != "" {
			so.BaseEndpoint = aws.String(o.Endpoint)
		}
		so.UsePathStyle = o.PathStyle
		if o.Transport != nil {
			so.HTTPClient = &http.Client{Transport: o.Transport}
		}
		so.HTTPClient = patient{so.HTTPClient, o.TryLimit}
		so.DisableLogOutputChecksumValidationSkipped = true
		so.HTTPSignerV4 = issuedSigner{v4.NewSigner(func(vo *v4.SignerOptions) { vo.DisableURIPathEscaping = true })}
	})
	return b, nil
}

// client returns what requests go through: many connections, as one would be the bottleneck. The SDK adds AWS_CA_BUNDLE.
func (o Options) client() *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.ForceAttemptHTTP2 = false
		t.MaxIdleConns, t.MaxIdleConnsPerHost = 512, 256
		if o.CA != nil {
			t.TLSClientConfig.RootCAs = o.CA
		}
	})
}

// An issuedSigner signs with the time at which a request was issued, not with that at which it is sent: the server then
// refuses it when it comes too late, though this process was stopped in between.
type issuedSigner struct{ *v4.Signer }

// SignHTTP implements s3.HTTPSignerV4.
func (s issuedSigner) SignHTTP(ctx context.Context, c aws.Credentials, r *http.Request, payloadHash, service, region string, at time.Time, options ...func(*v4.SignerOptions)) error {
	if from, ok := issued(ctx); ok {
		// at knows how far this clock is off the server's. The clock that stands still while the machine sleeps won't do.
		at = at.Add(-max(time.Since(from), time.Now().Round(0).Sub(from.Round(0))))
	}
	return s.Signer.SignHTTP(ctx, c, r, payloadHash, service, region, at, options...)
}

// WithPartSize returns the same bucket with another Options.PartSize.
func (b *S3) WithPartSize(size int64) *S3 {
	other := *b
	other.partSize = size
	return &other
}

// Probe lists one object, so that what is wrong with the configuration is said at once.
func (b *S3) Probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, timeout(0))
	defer cancel()
	_, err := b.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: b.bucket, Prefix: aws.String(b.prefix), MaxKeys: aws.Int32(1)})
	return b.failed("probe", *b.bucket, err, false)
}

// Region returns the region that requests are signed for.
func (b *S3) Region() string { return b.options.Region }

// String returns the bucket's name and prefix.
func (b *S3) String() string { return "s3://" + *b.bucket + "/" + b.prefix }

func (b *S3) key(key string) *string { return aws.String(b.prefix + key) }

// failed makes an SDK's error one of ours. effect says that the request may have been carried out nevertheless.
func (b *S3) failed(op, key string, err error, effect bool) error {
	if err == nil {
		return nil
	}
	e := &Error{Op: op, Key: key, Err: err}
	status, code := statusOf(err)
	switch {
	case status == http.StatusPreconditionFailed, code == "PreconditionFailed":
		e.Err = ErrCondition
	case code == "NoSuchBucket", code == "InvalidBucketName":
		e.Err, e.Hint = ErrNoBucket, fmt.Sprintf("bucket %q of %s: create it, or see the name, the endpoint and path_style", *b.bucket, b.where())
	case code == "RequestTimeTooSkewed", code == "RequestExpired":
		e.Err, e.Hint = ErrClock, "set this machine's clock (NTP)"
	case code == "PermanentRedirect", code == "AuthorizationHeaderMalformed", code == "IllegalLocationConstraintException", status == http.StatusMovedPermanently:
		e.Err, e.Hint = ErrRegion, fmt.Sprintf("region %q is set: %v", b.options.Region, err)
	case code == "InvalidAccessKeyId", code == "XAdminUserNotFound", code == "SignatureDoesNotMatch", code == "ExpiredToken", code == "InvalidToken", code == "AccessDenied", status == http.StatusForbidden, status == http.StatusUnauthorized:
		e.Err, e.Hint = fmt.Errorf("%w: %w", ErrCredentials, err), "the access key needs to list the bucket, and to get, put and delete its objects"
	case noCredentials(err):
		e.Err = fmt.Errorf("%w: %w", ErrNoCredentials, err)
	case code == "NoSuchKey", code == "NotFound", status == http.StatusNotFound && code == "":
		e.Err = ErrNotFound
	case status == http.StatusServiceUnavailable, status == http.StatusTooManyRequests, status == http.StatusConflict, code == "SlowDown":
		e.Err = fmt.Errorf("%w: %w", ErrBusy, err)
	case code == "BadDigest", code == "InvalidDigest", code == "XAmzContentChecksumMismatch":
		e.Err = fmt.Errorf("%w: %w", ErrDamaged, err)
	case errors.Is(err, context.Canceled) && !effect:
	case effect && (status == 0 || status >= 500):
		e.Err = fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return e
}

func (b *S3) where() string {
	if b.options.Endpoint != "" {
		return b.options.Endpoint
	}
	return "AWS in " + b.options.Region
}
