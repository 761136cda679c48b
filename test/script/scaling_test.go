package script

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/sarsen-build/sarsen/internal/redisserver"
	"github.com/sarsen-build/sarsen/internal/versitygw"
)

var (
	yamlBlock = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```")
	sideFile  = regexp.MustCompile(`\A# (/\S+)\n`)
)

// TestScaling starts a server of every configuration in docs/scaling.md, as it stands there, but for where its disk, its
// ports, its bucket and its Redis are. What begins with a comment that is a path is a file that others name.
func TestScaling(t *testing.T) {
	t.Parallel() // it waits more than it works
	text, err := os.ReadFile("../../docs/scaling.md")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	var configs []string
	for _, block := range yamlBlock.FindAllStringSubmatch(string(text), -1) {
		if path := sideFile.FindStringSubmatch(block[1]); path != nil {
			files[path[1]] = block[1]
		} else {
			configs = append(configs, block[1])
		}
	}
	if len(configs) < 2 || len(files) == 0 {
		t.Fatalf("docs/scaling.md has %d configurations and %d files that they name; want more", len(configs), len(files))
	}
	for i, text := range configs {
		t.Run(fmt.Sprint(i+1), func(t *testing.T) {
			var doc map[string]any
			if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
				t.Fatal(err)
			}
			f := &fleet{t: t, dir: t.TempDir()}
			f.config = filepath.Join(f.dir, "sarsen.yaml")
			f.adapt(doc, files)
			f.write(f.config, doc)
			a := f.start("a")
			data := random(rand.NewChaCha8([32]byte{byte(i)}), 100_000)
			if err := a.put(data); err != nil {
				t.Error(err)
			}
			a.stop()
			if err := f.start("a").get(data); err != nil {
				t.Errorf("after a restart: %v", err)
			}
			if f.gate == nil {
				return
			}
			f.mustRun("check", "s3", "--config", f.config)
			if err := f.start("b").get(data); err != nil {
				t.Errorf("another one on the same bucket: %v", err)
			}
		})
	}
}

// write writes a YAML file.
func (f *fleet) write(path string, doc any) {
	f.t.Helper()
	text, err := yaml.Marshal(doc)
	if err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// adapt makes a configuration one for this machine.
func (f *fleet) adapt(doc map[string]any, files map[string]string) {
	f.t.Helper()
	doc["dir"], doc["max-size"] = filepath.Join(f.dir, "disk"), "64MiB"
	for _, port := range []string{"grpc", "http"} {
		doc[port] = map[string]any{"address": "127.0.0.1:0"}
	}
	if b, ok := doc["bucket"].(map[string]any); ok {
		f.gate = versitygw.Start(f.t)
		b["name"], b["endpoint"] = f.gate.Bucket, f.gate.Endpoint
		delete(b, "region")
		keys := f.side(b["credentials"], files)
		keys["access-key"], keys["secret-key"] = f.gate.AccessKey, f.gate.SecretKey
		b["credentials"] = filepath.Join(f.dir, "keys.yaml")
		f.write(filepath.Join(f.dir, "keys.yaml"), keys)
	}
	if r, ok := doc["redis"].(map[string]any); ok {
		f.side(r["credentials"], files)
		for _, secured := range []string{"tls", "ca", "credentials"} {
			delete(r, secured) // the one here has neither
		}
		r["address"] = redisserver.Start(f.t).Address
	}
}

// side returns a file that a configuration names, as the document has it.
func (f *fleet) side(path any, files map[string]string) map[string]any {
	f.t.Helper()
	doc := map[string]any{}
	text, ok := files[fmt.Sprint(path)]
	if !ok {
		f.t.Fatalf("docs/scaling.md names %v and does not show it, only %s", path, strings.Join(names(files), ", "))
	}
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		f.t.Fatal(err)
	}
	return doc
}

func names(files map[string]string) (list []string) {
	for name := range files {
		list = append(list, name)
	}
	return list
}
