package bucket

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// maxParts is how many parts an object may have (docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html).
const maxParts = 10_000

// putParts writes a large object, several parts at a time. It is seen when all are there.
func (b *S3) putParts(ctx context.Context, key string, body io.ReaderAt, size int64, when Condition) (Object, error) {
	upload, err := b.beginParts(ctx, key)
	if err != nil {
		return Object{}, err
	}
	parts, err := b.parts(ctx, key, upload, body, size)
	if err == nil {
		var o Object
		if o, err = b.completeParts(ctx, key, upload, parts, size, when); err == nil {
			return o, nil
		}
	}
	// What is not ended takes room until Sweep finds it.
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout(0))
	defer cancel()
	_, _ = b.client.AbortMultipartUpload(clean, &s3.AbortMultipartUploadInput{Bucket: b.bucket, Key: b.key(key), UploadId: upload})
	return Object{}, err
}

func (b *S3) beginParts(ctx context.Context, key string) (upload *string, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout(0))
	defer cancel()
	out, err := b.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
		Bucket: b.bucket, Key: b.key(key), ChecksumAlgorithm: types.ChecksumAlgorithmCrc32c,
		ContentType: aws.String("application/octet-stream"),
	})
	if err != nil {
		return nil, b.failed("put", key, err, false)
	}
	return out.UploadId, nil
}

func (b *S3) completeParts(ctx context.Context, key string, upload *string, parts []types.CompletedPart, size int64, when Condition) (Object, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout(size))
	defer cancel()
	in := &s3.CompleteMultipartUploadInput{
		Bucket: b.bucket, Key: b.key(key), UploadId: upload,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	}
	in.IfMatch, in.IfNoneMatch = when.headers()
	out, err := b.client.CompleteMultipartUpload(ctx, in)
	if _, code := statusOf(err); code == "NoSuchUpload" && when == (Condition{}) {
		// An earlier try may have completed it, whose answer was lost.
		if o, err := b.Head(ctx, key); err == nil && o.Size == size {
			return o, nil
		}
	}
	if err != nil {
		return Object{}, b.unmet(when, b.failed("put", key, err, true))
	}
	return Object{key, size, aws.ToString(out.ETag), dateOf(out.ResultMetadata)}, nil
}

// parts writes the parts, the first error of which ends all.
func (b *S3) parts(ctx context.Context, key string, upload *string, body io.ReaderAt, size int64) ([]types.CompletedPart, error) {
	partSize := max(b.partSize, (size+maxParts-1)/maxParts)
	n := int((size + partSize - 1) / partSize)
	parts := make([]types.CompletedPart, n)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var group sync.WaitGroup
	for range min(b.parallel, n) {
		group.Go(func() {
			for i := range next {
				off := int64(i) * partSize
				part, err := b.part(ctx, key, upload, int32(i+1), io.NewSectionReader(body, off, min(partSize, size-off)))
				if err != nil {
					cancel(err)
					continue
				}
				parts[i] = part
			}
		})
	}
	for i := range n {
		if ctx.Err() == nil {
			next <- i
		}
	}
	close(next)
	group.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return parts, nil
}

func (b *S3) part(ctx context.Context, key string, upload *string, number int32, body *io.SectionReader) (types.CompletedPart, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout(body.Size()))
	defer cancel()
	sum, err := crc32c(body)
	if err != nil {
		return types.CompletedPart{}, &Error{"put", key, "", err}
	}
	out, err := b.client.UploadPart(ctx, &s3.UploadPartInput{
		Bucket: b.bucket, Key: b.key(key), UploadId: upload, PartNumber: &number,
		Body: body, ContentLength: aws.Int64(body.Size()), ChecksumCRC32C: sum,
	}, b.unsigned)
	if err != nil {
		return types.CompletedPart{}, b.failed("put", key, err, false)
	}
	return types.CompletedPart{ETag: out.ETag, ChecksumCRC32C: out.ChecksumCRC32C, PartNumber: &number}, nil
}

// Sweep implements Bucket.
func (b *S3) Sweep(ctx context.Context, prefix string, before time.Time) (int, error) {
	n := 0
	in := &s3.ListMultipartUploadsInput{Bucket: b.bucket, Prefix: b.key(prefix)}
	for {
		out, err := b.uploads(ctx, prefix, in)
		if err != nil {
			return n, err
		}
		for _, u := range out.Uploads {
			if !aws.ToTime(u.Initiated).Before(before) {
				continue
			}
			if err := b.abort(ctx, u); err != nil {
				return n, err
			}
			n++
		}
		if !aws.ToBool(out.IsTruncated) {
			return n, nil
		}
		in.KeyMarker, in.UploadIdMarker = out.NextKeyMarker, out.NextUploadIdMarker
	}
}

func (b *S3) uploads(ctx context.Context, prefix string, in *s3.ListMultipartUploadsInput) (*s3.ListMultipartUploadsOutput, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout(0))
	defer cancel()
	out, err := b.client.ListMultipartUploads(ctx, in)
	return out, b.failed("list uploads", prefix, err, false)
}

func (b *S3) abort(ctx context.Context, u types.MultipartUpload) error {
	ctx, cancel := context.WithTimeout(ctx, timeout(0))
	defer cancel()
	_, err := b.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: b.bucket, Key: u.Key, UploadId: u.UploadId})
	if _, code := statusOf(err); code == "NoSuchUpload" {
		return nil // it has ended meanwhile
	}
	return b.failed("end upload of", aws.ToString(u.Key), err, true)
}
