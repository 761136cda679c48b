package config

import (
	"strings"
	"testing"
	"time"
)

func TestBucket(t *testing.T) {
	path := write(t, `dir: /data
bucket:
  name: builds
  endpoint: https://minio.example:9000/
  prefix: team/cache
  write: back
  queue: 2GiB
  refresh: never
  collect: 12h
  max-size: 5TB
`)
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	got, want := c.Bucket, Bucket{
		Name: "builds", Endpoint: "https://minio.example:9000", Prefix: "team/cache/", PathStyle: "auto",
		WriteBack: true, Queue: 2 << 30, Heartbeat: time.Minute, Collect: 12 * time.Hour, MaxSize: 5e12,
	}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if !got.UsePathStyle() || (Bucket{PathStyle: "auto"}).UsePathStyle() || (Bucket{PathStyle: "false", Endpoint: "http://x"}).UsePathStyle() {
		t.Error("the path has the bucket's name where it is not AWS, unless it is said")
	}
}

func TestBucketErrors(t *testing.T) {
	for text, want := range map[string]string{
		"bucket: {prefix: x}":                       "F:1: bucket.prefix: there is no bucket; name it",
		"bucket: {name: s3://x}":                    "F:1: bucket.name: ",
		"bucket: {name: x, endpoint: localhost}":    "F:1: bucket.endpoint: ",
		"bucket: {name: x, endpoint: 'http://h/b'}": "F:1: bucket.endpoint: ",
		"bucket: {name: x, write: sometimes}":       "F:1: bucket.write: ",
		"bucket: {name: x, queue: 0}":               "F:1: bucket.queue: ",
		"bucket: {name: x, refresh: 1ms}":           "F:1: bucket.refresh: ",
		"bucket: {name: x, collect: seldom}":        "F:1: bucket.collect: ",
		"bucket: {name: x, heartbeat: 1ms}":         "F:1: bucket.heartbeat: ",
		"bucket: {name: x, max-size: 0}":            "F:1: bucket.max-size: ",
		"bucket: {name: x, prefix: /x}":             "F:1: bucket.prefix: ",
		"bucket: {name: x, path-style: perhaps}":    "F:1: bucket.path-style: ",
		"bucket: {name: x, secret-key: hidden}":     "F:1: bucket.secret-key: unknown field",
		"bucket: builds":                            "F:1: bucket: this is a section",
	} {
		path := write(t, text)
		_, err := Load(path)
		if err == nil {
			t.Errorf("%s: got no error, want %s", text, want)
			continue
		}
		if got := strings.ReplaceAll(err.Error(), path, "F"); !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}

func TestBucketKeys(t *testing.T) {
	got, err := LoadBucketKeys(write(t, "access-key: a\nsecret-key: b\n"))
	if want := (BucketKeys{AccessKey: "a", SecretKey: "b"}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, text := range []string{"", "access-key: a", "access-key: a\nsecret-key: [hidden]", "access-key: a\nsecret-key: hidden\nmore: x", "- hidden"} {
		_, err := LoadBucketKeys(write(t, text))
		if err == nil || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%q: got %v, want an error that keeps the secret", text, err)
		}
	}
}
