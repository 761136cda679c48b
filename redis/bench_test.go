package redis_test

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/redisserver"
	"github.com/sarsen-build/sarsen/redis"
	"github.com/sarsen-build/sarsen/s3"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// BenchmarkLookup is what it costs to ask for blobs that are nowhere.
func BenchmarkLookup(b *testing.B) {
	client, err := redis.New(at(redisserver.Start(b)))
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	inner, err := s3.Open(b.Context(), client.Bucket(&bucket.Memory{}), s3.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer inner.Close()
	s := client.Store(inner)
	for _, n := range []int{1, 100, 1000, 5000} {
		var set digest.Set
		for i := range n {
			set.Add(digest.SHA256.Of(binary.AppendVarint(nil, int64(i))))
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				if missing, err := s.Missing(b.Context(), set); err != nil || missing.Len() != n {
					b.Fatalf("%d missing, %v", missing.Len(), err)
				}
			}
		})
	}
}
