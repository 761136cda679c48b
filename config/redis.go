package config

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// A Redis says what the servers on one bucket share beside it. Without Addresses it is nothing.
type Redis struct {
	Addresses   []string // HOST:PORT of a server, of nodes of a cluster, or of sentinels
	Sentinel    string   // the master's name that the sentinels know; "" says that they are none
	TLS         bool
	CA          string // path of the certificates to trust; "" is the system's
	Credentials string // path of the file with username and password; "" asks the environment
	Prefix      string // of every key
	Timeout     time.Duration
	Connections int // to each server
}

const (
	minRedisTimeout     = 10 * time.Millisecond
	maxRedisTimeout     = time.Minute
	maxRedisConnections = 256
)

var redisFields = []Field{
	{
		Name: "redis.address", Flag: "redis", Value: "HOST:PORT,...",
		Usage: "the Redis or Valkey by which servers on one bucket see one another's writes: a server, some nodes of a cluster, or sentinels (default: none)",
		set:   setRedisAddress,
		get:   func(c *Config) string { return strings.Join(c.Redis.Addresses, ",") },
	},
	{
		Name: "redis.sentinel", Flag: "redis-sentinel", Value: "NAME",
		Usage: "the name by which the sentinels at redis.address know the master (default: they are no sentinels)",
		set:   func(c *Config, text string) error { c.Redis.Sentinel = text; return nil },
		get:   func(c *Config) string { return c.Redis.Sentinel },
	},
	{
		Name: "redis.tls", Flag: "redis-tls", Value: "WHETHER", Default: "off",
		Usage: "whether it is reached over TLS: on or off",
		set: func(c *Config, text string) error {
			// YAML 1.1 writers turn these words into booleans.
			switch text {
			case "on", "true":
				c.Redis.TLS = true
			case "off", "false":
				c.Redis.TLS = false
			default:
				return fmt.Errorf("%q is neither on nor off", text)
			}
			return nil
		},
		get: func(c *Config) string {
			if c.Redis.TLS {
				return "on"
			}
			return "off"
		},
	},
	{
		Name: "redis.ca", Flag: "redis-ca", Value: "FILE",
		Usage: "the certificates to trust instead of the system's, in PEM",
		set:   func(c *Config, text string) error { c.Redis.CA = text; return nil },
		get:   func(c *Config) string { return c.Redis.CA },
	},
	{
		Name: "redis.credentials", Flag: "redis-credentials", Value: "FILE",
		Usage: "the YAML file with password, and username if there is one (default: SARSEN_REDIS_PASSWORD and SARSEN_REDIS_USERNAME)",
		set:   func(c *Config, text string) error { c.Redis.Credentials = text; return nil },
		get:   func(c *Config) string { return c.Redis.Credentials },
	},
	{
		Name: "redis.prefix", Flag: "redis-prefix", Value: "PREFIX",
		Usage: "what all keys begin with; the same for all servers on one bucket and prefix, and for no others (default: of the names of these two)",
		set: func(c *Config, text string) error {
			if strings.ContainsAny(text, "{}\r\n") || len(text) > 200 {
				return fmt.Errorf("%q is not a prefix; write up to 200 characters like team: without braces", clip(text))
			}
			c.Redis.Prefix = text
			return nil
		},
		get: func(c *Config) string { return c.Redis.Prefix },
	},
	{
		Name: "redis.timeout", Flag: "redis-timeout", Value: "DURATION", Default: "2s",
		Usage: "how long it may take to answer before this server goes on without it",
		set: func(c *Config, text string) (err error) {
			if c.Redis.Timeout, err = ParseDuration(text); err == nil && (c.Redis.Timeout < minRedisTimeout || c.Redis.Timeout > maxRedisTimeout) {
				err = fmt.Errorf("%s is out of range; make it %s at least and %s at most", text, FormatDuration(minRedisTimeout), FormatDuration(maxRedisTimeout))
			}
			return err
		},
		get: func(c *Config) string { return FormatDuration(c.Redis.Timeout) },
	},
	{
		Name: "redis.connections", Flag: "redis-connections", Value: "N", Default: "4",
		Usage: "how many connections short questions share, to each server; long ones have some of their own",
		set: func(c *Config, text string) error {
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 || n > maxRedisConnections {
				return fmt.Errorf("%q is not a number from 1 to %d", clip(text), maxRedisConnections)
			}
			c.Redis.Connections = n
			return nil
		},
		get: func(c *Config) string { return strconv.Itoa(c.Redis.Connections) },
	},
}

func setRedisAddress(c *Config, text string) error {
	c.Redis.Addresses = nil
	if text == "" {
		return nil
	}
	for _, a := range strings.Split(text, ",") {
		a = strings.TrimSpace(a)
		if strings.Contains(a, "//") || strings.Contains(a, "@") { // a password may stand there
			return errors.New("a URL is not an address; write HOST:PORT, the password into the file of redis.credentials, and TLS as redis.tls: on")
		}
		host, port, err := net.SplitHostPort(a)
		n, bad := strconv.ParseUint(port, 10, 16)
		if err != nil || bad != nil || n == 0 || host == "" || strings.ContainsAny(host, " \t\r\n/") {
			return fmt.Errorf("%q is not an address; write HOST:PORT, like redis.example:6379, and commas between several", clip(a))
		}
		c.Redis.Addresses = append(c.Redis.Addresses, a)
	}
	return nil
}

// finishRedis finds settings that can't be meant together, and names the keys' prefix if nobody did: two buckets that
// share a Redis must not share keys.
func (c *Config) finishRedis() []*Error {
	if len(c.Redis.Addresses) == 0 {
		for _, f := range redisFields {
			if from := c.origins[f.Name]; from != (Origin{}) && f.get(c) != f.Default {
				return []*Error{{from, f.Name, "there is no Redis; say where it is with redis.address or --redis"}}
			}
		}
		return nil
	}
	if c.Bucket.Name == "" {
		return []*Error{{c.origins["redis.address"], "redis.address", "Redis tells servers that share a bucket what is in it, and there is no bucket; name it with bucket.name or --bucket"}}
	}
	if c.Redis.CA != "" && !c.Redis.TLS {
		return []*Error{{c.origins["redis.ca"], "redis.ca", "without TLS no certificate is asked for; write redis.tls: on"}}
	}
	if c.Redis.Prefix == "" {
		c.Redis.Prefix = "sarsen:" + strings.NewReplacer("{", "(", "}", ")").Replace(c.Bucket.Name+"/"+c.Bucket.Prefix) + ":"
	}
	return nil
}

// RedisCredentials are a user and its password. Without a name it is the default user.
type RedisCredentials struct {
	Username, Password string
}

// LoadRedisCredentials reads the file at path, strictly. The error joins all *Error that were found.
func LoadRedisCredentials(path string) (k RedisCredentials, err error) {
	err = loadSecrets(path, "redis.credentials", []string{"username", "password"}, map[string]*string{"username": &k.Username, "password": &k.Password})
	if err == nil && k.Password == "" {
		err = &Error{Origin{File: path, Line: 1}, "", "it needs password"}
	}
	return k, err
}

// loadSecrets reads a file of names and secrets, strictly. No error shows what stands in a value.
func loadSecrets(path, what string, names []string, fields map[string]*string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("can't read %s: %w", what, err)
	}
	loader, err := yaml.NewLoader(strings.NewReader(string(text)))
	if err != nil {
		return syntaxError(path, err)
	}
	var doc yaml.Node
	if err := loader.Load(&doc); err != nil && !errors.Is(err, io.EOF) {
		return syntaxError(path, err)
	}
	d := decoder{file: path}
	if doc.Kind == yaml.DocumentNode && len(doc.Content) == 1 {
		d.each("", doc.Content[0], names, func(name string, value *yaml.Node) {
			if value.Kind != yaml.ScalarNode || isNull(value) {
				d.fail(value, name, "want a value, got %s", strconv.Quote(value.Tag))
				return
			}
			*fields[name] = value.Value
		})
	}
	return join(d.errs)
}
