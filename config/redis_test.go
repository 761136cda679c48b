package config

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestRedis(t *testing.T) {
	c, err := Load(write(t, `dir: /data
bucket: {name: builds, prefix: 'a{b}'}
redis:
  address: one.example:6379, two.example:6379
  tls: on
  ca: /etc/ca.pem
  credentials: /etc/redis.yaml
  timeout: 500ms
  connections: 8
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Redis{
		Addresses: []string{"one.example:6379", "two.example:6379"}, TLS: true, CA: "/etc/ca.pem", Credentials: "/etc/redis.yaml",
		Prefix: "sarsen:builds/a(b)/:", Timeout: 500 * time.Millisecond, Connections: 8,
	}
	if !reflect.DeepEqual(c.Redis, want) {
		t.Errorf("got %+v, want %+v", c.Redis, want)
	}
	var printed bytes.Buffer
	if err := c.Write(&printed); err != nil {
		t.Fatal(err)
	}
	if again, err := Load(write(t, printed.String())); err != nil || !reflect.DeepEqual(again.Redis, want) {
		t.Errorf("printed and read again: got %+v, %v", again.Redis, err)
	}
	// Two buckets that share a Redis share no keys.
	for _, bucket := range []string{"{name: builds}", "{name: other, prefix: 'a{b}'}"} {
		o, err := Load(write(t, "dir: /data\nbucket: "+bucket+"\nredis: {address: 'one.example:6379'}\n"))
		if err != nil || o.Redis.Prefix == c.Redis.Prefix {
			t.Errorf("bucket %s: prefix %q, %v", bucket, o.Redis.Prefix, err)
		}
	}
}

func TestRedisErrors(t *testing.T) {
	const with = "bucket: {name: x}\n"
	for text, want := range map[string]string{
		"redis: {address: 'h:1'}":                                     "F:1: redis.address: Redis tells servers that share a bucket what is in it, and there is no bucket; name it",
		with + "redis: {tls: on}":                                     "F:2: redis.tls: there is no Redis; say where it is",
		with + "redis: {address: h}":                                  "F:2: redis.address: \"h\" is not an address; write HOST:PORT",
		with + "redis: {address: 'h:1,'}":                             "F:2: redis.address: \"\" is not an address",
		with + "redis: {address: 'h:0'}":                              "F:2: redis.address: \"h:0\" is not an address",
		with + "redis: {address: 'redis://me:hidden@h:1'}":            "F:2: redis.address: a URL is not an address; write HOST:PORT, the password into the file of redis.credentials",
		with + "redis: {address: [h]}":                                "F:2: redis.address: want a value (HOST:PORT,...), got a list",
		with + "redis: {address: 'h:1', tls: maybe}":                  "F:2: redis.tls: \"maybe\" is neither on nor off",
		with + "redis: {address: 'h:1', ca: c.pem}":                   "F:2: redis.ca: without TLS no certificate is asked for; write redis.tls: on",
		with + "redis: {address: 'h:1', prefix: '{a}'}":               "F:2: redis.prefix: \"{a}\" is not a prefix",
		with + "redis: {address: 'h:1', timeout: 1h}":                 "F:2: redis.timeout: 1h is out of range; make it 10ms at least and 1m at most",
		with + "redis: {address: 'h:1', connections: 0}":              "F:2: redis.connections: \"0\" is not a number from 1 to 256",
		with + "redis: {address: 'h:1', password: hidden}":            "F:2: redis.password: unknown field",
		with + "redis: {address: 'h:1', credential: /etc/redis.yaml}": "F:2: redis.credential: unknown field; did you mean redis.credentials?",
	} {
		path := write(t, text)
		_, err := Load(path)
		if err == nil {
			t.Errorf("%s: got no error, want %s", text, want)
			continue
		}
		if got := strings.ReplaceAll(err.Error(), path, "F"); !strings.HasPrefix(got, want) || strings.Contains(got, "hidden") {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}

func TestRedisCredentials(t *testing.T) {
	got, err := LoadRedisCredentials(write(t, "username: a\npassword: b\n"))
	if want := (RedisCredentials{Username: "a", Password: "b"}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, text := range []string{"", "username: a", "password: [hidden]", "password: hidden\nmore: x", "- hidden"} {
		_, err := LoadRedisCredentials(write(t, text))
		if err == nil || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%q: got %v, want an error that keeps the secret", text, err)
		}
	}
}
