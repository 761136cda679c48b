package bucket

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
)

func statusOf(err error) (status int, code string) {
	var response *awshttp.ResponseError
	if errors.As(err, &response) {
		status = response.HTTPStatusCode()
	}
	var api smithy.APIError
	if errors.As(err, &api) {
		code = api.ErrorCode()
	}
	return status, code
}

// noCredentials says that there were none to sign with.
func noCredentials(err error) bool {
	var signing interface{ SigningError() bool }
	return errors.As(err, &signing) || strings.Contains(err.Error(), "get identity: get credentials")
}

// Get implements Bucket.
func (b *S3) Get(ctx context.Context, key string, off, n int64) ([]byte, Object, error) {
	in := &s3.GetObjectInput{Bucket: b.bucket, Key: b.key(key), ChecksumMode: types.ChecksumModeEnabled}
	if n == 0 {
		o, err := b.Head(ctx, key)
		return nil, o, err
	}
	if n > 0 {
		in.Range = aws.String(fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	} else if off > 0 {
		in.Range = aws.String(fmt.Sprintf("bytes=%d-", off))
	}
	// The SDK tries again until the headers are there; a body that breaks off is tried again here.
	var err error
	for range bodyTries {
		var data []byte
		var o Object
		if data, o, err = b.get(ctx, key, in, off, n); err == nil || !errors.Is(err, ErrDamaged) || ctx.Err() != nil {
			return data, o, err
		}
	}
	return nil, Object{}, err
}

const bodyTries = 3

func (b *S3) get(ctx context.Context, key string, in *s3.GetObjectInput, off, n int64) ([]byte, Object, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout(max(n, b.partSize)))
	defer cancel()
	out, err := b.client.GetObject(ctx, in)
	if status, code := statusOf(err); status == http.StatusRequestedRangeNotSatisfiable || code == "InvalidRange" {
		o, err := b.Head(ctx, key) // from off on there is nothing
		return nil, o, err
	}
	if err != nil {
		return nil, Object{}, b.failed("get", key, err, false)
	}
	defer out.Body.Close()
	damaged := func(format string, a ...any) ([]byte, Object, error) {
		return nil, Object{}, &Error{"get", key, "", fmt.Errorf("%w: "+format, append([]any{ErrDamaged}, a...)...)}
	}
	if out.ContentLength == nil || *out.ContentLength < 0 {
		return damaged("the answer does not say how long it is")
	}
	size := *out.ContentLength
	o := Object{key, size, aws.ToString(out.ETag), aws.ToTime(out.LastModified)}
	if r := aws.ToString(out.ContentRange); r != "" {
		var first, last int64
		if _, err := fmt.Sscanf(r, "bytes %d-%d/%d", &first, &last, &o.Size); err != nil || first != off || last-first+1 != size {
			return damaged("%d bytes came with Content-Range %q", size, r)
		}
	} else if off > 0 {
		return damaged("another part came than was asked for")
	}
	if n >= 0 && size > n {
		return damaged("%d bytes came, %d were asked for", size, n)
	}
	data := make([]byte, size)
	if got, err := io.ReadFull(out.Body, data); err != nil {
		return damaged("%d of %d bytes came: %w", got, size, err)
	}
	// Checksums are compared at the end.
	if more, err := out.Body.Read(make([]byte, 1)); more > 0 || err != nil && err != io.EOF {
		return damaged("after %d bytes: %w", size, cmp.Or(err, errMore))
	}
	return data, o, nil
}

var errMore = errors.New("there are more")

// Head implements Bucket.
func (b *S3) Head(ctx context.Context, key string) (Object, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout(0))
	defer cancel()
	out, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: b.bucket, Key: b.key(key)})
	if err != nil {
		return Object{}, b.failed("head", key, err, false)
	}
	return Object{key, aws.ToInt64(out.ContentLength), aws.ToString(out.ETag), aws.ToTime(out.LastModified)}, nil
}

// Put implements Bucket.
func (b *S3) Put(ctx context.Context, key string, body io.ReaderAt, size int64, when Condition) (Object, error) {
	if size > b.partSize {
		return b.putParts(ctx, key, body, size, when)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout(size))
	defer cancel()
	section := io.NewSectionReader(body, 0, size)
	sum, err := crc32c(section)
	if err != nil {
		return Object{}, &Error{"put", key, "", err}
	}
	in := &s3.PutObjectInput{
		Bucket: b.bucket, Key: b.key(key), ContentLength: &size, Body: section, ChecksumCRC32C: sum,
		ContentType: aws.String("application/octet-stream"),
	}
	in.IfMatch, in.IfNoneMatch = when.headers()
	out, err := b.client.PutObject(ctx, in, b.unsigned)
	if err != nil {
		return Object{}, b.unmet(when, b.failed("put", key, err, true))
	}
	return Object{key, size, aws.ToString(out.ETag), dateOf(out.ResultMetadata)}, nil
}

// crc32c returns the checksum that goes before a body, in a header. The SDK's own comes behind the body where there is TLS,
// in a coding that not every server knows.
func crc32c(body *io.SectionReader) (*string, error) {
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	n, err := io.Copy(h, io.NewSectionReader(body, 0, body.Size()))
	if err == nil && n < body.Size() {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("read what is to be written: %w", err)
	}
	return aws.String(base64.StdEncoding.EncodeToString(h.Sum(nil))), nil
}

// unsigned leaves a body out of what is signed where TLS protects it, and the checksum is signed: another pass of SHA-256
// over it would say no more.
func (b *S3) unsigned(o *s3.Options) {
	if !strings.HasPrefix(b.options.Endpoint, "http:") {
		o.APIOptions = append(o.APIOptions, v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)
	}
}

// unmet takes an object that is gone for one that is not as it should have been: which of the two a server answers
// to If-Match differs.
func (b *S3) unmet(when Condition, err error) error {
	var e *Error
	if when.ETag != "" && errors.As(err, &e) && errors.Is(e.Err, ErrNotFound) {
		e.Err = ErrCondition
	}
	return err
}

func (c Condition) headers() (match, noneMatch *string) {
	if c.ETag != "" {
		match = aws.String(c.ETag)
	}
	if c.Absent {
		noneMatch = aws.String("*")
	}
	return match, noneMatch
}

// dateOf returns the server's clock, or zero if the server did not say: this machine's is none to measure promises with.
func dateOf(m middleware.Metadata) time.Time {
	at, _ := awsmiddleware.GetServerTime(m)
	return at
}

// Delete implements Bucket.
func (b *S3) Delete(ctx context.Context, keys ...string) (left []string, err error) {
	if len(keys) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout(0))
	defer cancel()
	if len(keys) == 1 {
		_, err := b.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: b.bucket, Key: b.key(keys[0])})
		if err = b.failed("delete", keys[0], err, true); err != nil && !errors.Is(err, ErrNotFound) {
			return keys, err
		}
		return nil, nil
	}
	batch := &types.Delete{Quiet: aws.Bool(true), Objects: make([]types.ObjectIdentifier, len(keys))}
	for i, key := range keys {
		batch.Objects[i].Key = b.key(key)
	}
	out, err := b.client.DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: b.bucket, Delete: batch})
	if err != nil {
		return keys, b.failed("delete", keys[0], err, true)
	}
	for _, e := range out.Errors {
		if aws.ToString(e.Code) != "NoSuchKey" {
			left = append(left, strings.TrimPrefix(aws.ToString(e.Key), b.prefix))
			err = &Error{"delete", left[0], "", fmt.Errorf("%s: %s", aws.ToString(e.Code), aws.ToString(e.Message))}
		}
	}
	return left, err
}

// List implements Bucket.
func (b *S3) List(ctx context.Context, prefix, after string) (Page, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout(0))
	defer cancel()
	in := &s3.ListObjectsV2Input{Bucket: b.bucket, Prefix: b.key(prefix)}
	if after != "" {
		in.StartAfter = b.key(after)
	}
	out, err := b.client.ListObjectsV2(ctx, in)
	if err != nil {
		return Page{}, b.failed("list", prefix, err, false)
	}
	p := Page{More: aws.ToBool(out.IsTruncated), Date: dateOf(out.ResultMetadata), Objects: make([]Object, len(out.Contents))}
	for i, o := range out.Contents {
		p.Objects[i] = Object{strings.TrimPrefix(aws.ToString(o.Key), b.prefix), aws.ToInt64(o.Size), aws.ToString(o.ETag), aws.ToTime(o.LastModified)}
	}
	return p, nil
}
