package config

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// A Bucket says what lies behind the disk. Without a Name nothing does.
type Bucket struct {
	Name        string
	Endpoint    string // a URL; "" is AWS
	Prefix      string // before every key, with its slash, or ""
	Region      string
	PathStyle   string // "auto", "true" or "false"
	Profile     string // of the shared AWS configuration
	Credentials string // path of the file with static keys; "" asks the environment, the profile and the machine's role

	WriteBack bool          // acknowledge what the disk has, before the bucket has it
	Queue     int64         // bytes that may wait to get there
	Heartbeat time.Duration // for how long the bucket may be away before no yes is given of it
	Refresh   time.Duration // how often it is listed for what other servers wrote; 0 is never
	Collect   time.Duration // how often it is collected, by one of its servers; 0 is never
	MaxSize   int64         // bytes; what is older goes when a collection finds more; 0 is no limit
}

// UsePathStyle reports whether the bucket's name goes into the path: as it is said, or with every endpoint but AWS's.
func (b Bucket) UsePathStyle() bool {
	return b.PathStyle == "true" || b.PathStyle == "auto" && b.Endpoint != ""
}

const (
	never        = "never"
	unlimited    = "none"
	minHeartbeat = time.Second
	maxHeartbeat = time.Hour
	minPeriod    = time.Second
)

var bucketFields = []Field{
	{
		Name: "bucket.name", Flag: "bucket", Value: "NAME",
		Usage: "the S3 bucket behind the disk (default: none)",
		set: func(c *Config, text string) error {
			if strings.ContainsAny(text, "/: \t") {
				return fmt.Errorf("%q is not the name of a bucket; its server goes into bucket.endpoint, and a path into bucket.prefix", text)
			}
			c.Bucket.Name = text
			return nil
		},
		get: func(c *Config) string { return c.Bucket.Name },
	},
	{
		Name: "bucket.endpoint", Flag: "bucket-endpoint", Value: "URL",
		Usage: "its server, like https://minio.example:9000 (default: AWS)",
		set:   setEndpoint,
		get:   func(c *Config) string { return c.Bucket.Endpoint },
	},
	{
		Name: "bucket.prefix", Flag: "bucket-prefix", Value: "PREFIX",
		Usage: "what all names in it begin with, where the bucket has other things too",
		set:   setPrefix,
		get:   func(c *Config) string { return c.Bucket.Prefix },
	},
	{
		Name: "bucket.region", Flag: "bucket-region", Value: "REGION",
		Usage: "its region, which servers other than AWS mostly don't care about (default: AWS_REGION, the profile's, us-east-1)",
		set:   func(c *Config, text string) error { c.Bucket.Region = text; return nil },
		get:   func(c *Config) string { return c.Bucket.Region },
	},
	{
		Name: "bucket.path-style", Flag: "bucket-path-style", Value: "WHETHER", Default: "auto",
		Usage: "whether the bucket's name goes into the path and not into the host's name: true, false, or auto, which is true unless it is AWS",
		set: func(c *Config, text string) error {
			if text != "auto" && text != "true" && text != "false" {
				return fmt.Errorf("%q is none of auto, true and false", text)
			}
			c.Bucket.PathStyle = text
			return nil
		},
		get: func(c *Config) string { return c.Bucket.PathStyle },
	},
	{
		Name: "bucket.profile", Flag: "bucket-profile", Value: "PROFILE",
		Usage: "the profile of the shared AWS configuration that has the credentials",
		set:   func(c *Config, text string) error { c.Bucket.Profile = text; return nil },
		get:   func(c *Config) string { return c.Bucket.Profile },
	},
	{
		Name: "bucket.credentials", Flag: "bucket-credentials", Value: "FILE",
		Usage: "the YAML file with access-key and secret-key (default: AWS's variables, the profile, then the role of the container or machine)",
		set:   func(c *Config, text string) error { c.Bucket.Credentials = text; return nil },
		get:   func(c *Config) string { return c.Bucket.Credentials },
	},
	{
		Name: "bucket.write", Flag: "bucket-write", Value: "MODE", Default: "through",
		Usage: "when a write is acknowledged: through (the bucket has it) or back (the disk has it)",
		set: func(c *Config, text string) error {
			if text != "through" && text != "back" {
				return fmt.Errorf("%q is neither through nor back", text)
			}
			c.Bucket.WriteBack = text == "back"
			return nil
		},
		get: func(c *Config) string {
			if c.Bucket.WriteBack {
				return "back"
			}
			return "through"
		},
	},
	{
		Name: "bucket.queue", Flag: "bucket-queue", Value: "SIZE", Default: "1GiB",
		Usage: "how much may wait on the disk for its way to the bucket; who writes more waits",
		set: func(c *Config, text string) (err error) {
			if c.Bucket.Queue, err = ParseSize(text); err == nil && c.Bucket.Queue == 0 {
				err = errors.New("nothing could ever wait; make it 1MiB or more")
			}
			return err
		},
		get: func(c *Config) string { return FormatSize(c.Bucket.Queue) },
	},
	{
		Name: "bucket.heartbeat", Flag: "bucket-heartbeat", Value: "DURATION", Default: "1m",
		Usage: "how long the bucket may be out of reach before this server answers from its disk alone; others take it for dead after twice that",
		set: func(c *Config, text string) (err error) {
			if c.Bucket.Heartbeat, err = ParseDuration(text); err == nil && (c.Bucket.Heartbeat < minHeartbeat || c.Bucket.Heartbeat > maxHeartbeat) {
				err = fmt.Errorf("%s is out of range; make it %s at least and %s at most", text, FormatDuration(minHeartbeat), FormatDuration(maxHeartbeat))
			}
			return err
		},
		get: func(c *Config) string { return FormatDuration(c.Bucket.Heartbeat) },
	},
	{
		Name: "bucket.refresh", Flag: "bucket-refresh", Value: "DURATION", Default: "15m",
		Usage: "how often the bucket is listed for what other servers wrote, or never",
		set:   func(c *Config, text string) error { return setPeriod(&c.Bucket.Refresh, text) },
		get:   func(c *Config) string { return formatPeriod(c.Bucket.Refresh) },
	},
	{
		Name: "bucket.collect", Flag: "bucket-collect", Value: "DURATION", Default: "1d",
		Usage: "how often one of the bucket's servers collects its garbage, or never",
		set:   func(c *Config, text string) error { return setPeriod(&c.Bucket.Collect, text) },
		get:   func(c *Config) string { return formatPeriod(c.Bucket.Collect) },
	},
	{
		Name: "bucket.max-size", Flag: "bucket-max-size", Value: "SIZE", Default: unlimited,
		Usage: "how much a collection leaves in the bucket, backups included, which stay; the oldest goes first",
		set: func(c *Config, text string) (err error) {
			if c.Bucket.MaxSize = 0; text != unlimited {
				if c.Bucket.MaxSize, err = ParseSize(text); err == nil && c.Bucket.MaxSize == 0 {
					err = fmt.Errorf("write %s for no limit", unlimited)
				}
			}
			return err
		},
		get: func(c *Config) string {
			if c.Bucket.MaxSize == 0 {
				return unlimited
			}
			return FormatSize(c.Bucket.MaxSize)
		},
	},
}

func setEndpoint(c *Config, text string) error {
	if text != "" {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
			return fmt.Errorf("%q is not a server's URL; write one like https://minio.example:9000", text)
		}
		if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
			return fmt.Errorf("%q has more than a server; the bucket goes into bucket.name, and a path in it into bucket.prefix", text)
		}
	}
	c.Bucket.Endpoint = strings.TrimSuffix(text, "/")
	return nil
}

func setPrefix(c *Config, text string) error {
	if strings.HasPrefix(text, "/") || strings.Contains(text, "//") || len(text) > 200 {
		return fmt.Errorf("%q is not a prefix; write one like team/cache/", clip(text))
	}
	if text != "" && !strings.HasSuffix(text, "/") {
		text += "/"
	}
	c.Bucket.Prefix = text
	return nil
}

func setPeriod(dst *time.Duration, text string) (err error) {
	if *dst = 0; text == never {
		return nil
	}
	if *dst, err = ParseDuration(text); err != nil {
		return fmt.Errorf("%w, or %s", err, never)
	}
	if *dst < minPeriod {
		return fmt.Errorf("%s is too often; make it %s or more, or %s", text, FormatDuration(minPeriod), never)
	}
	return nil
}

func formatPeriod(d time.Duration) string {
	if d == 0 {
		return never
	}
	return FormatDuration(d)
}

// needsBucket returns an error if something is said about a bucket that is not named, or if its keys are said twice.
func (c *Config) needsBucket() []*Error {
	if c.Bucket.Name != "" {
		if from := c.origins["bucket.profile"]; c.Bucket.Profile != "" && c.Bucket.Credentials != "" {
			return []*Error{{from, "bucket.profile", "bucket.credentials is set too; leave out one of them"}}
		}
		return nil
	}
	for _, f := range bucketFields {
		if from := c.origins[f.Name]; from != (Origin{}) && f.get(c) != f.Default {
			return []*Error{{from, f.Name, "there is no bucket; name it with bucket.name or --bucket"}}
		}
	}
	return nil
}

// BucketKeys are static credentials.
type BucketKeys struct {
	AccessKey, SecretKey, SessionToken string
}

// LoadBucketKeys reads the file at path, strictly. The error joins all *Error that were found.
func LoadBucketKeys(path string) (k BucketKeys, err error) {
	fields := map[string]*string{"access-key": &k.AccessKey, "secret-key": &k.SecretKey, "session-token": &k.SessionToken}
	err = loadSecrets(path, "bucket.credentials", []string{"access-key", "secret-key", "session-token"}, fields)
	if err == nil && (k.AccessKey == "" || k.SecretKey == "") {
		err = &Error{Origin{File: path, Line: 1}, "", "it needs access-key and secret-key"}
	}
	return k, err
}
