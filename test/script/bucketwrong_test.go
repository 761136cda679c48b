package script

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/internal/versitygw"
)

// check runs 'sarsen check s3' on the fleet's bucket with other flags and variables.
func (f *fleet) check(env []string, flags ...string) (string, error) {
	cmd := exec.Command(filepath.Join(bin, "sarsen"), append([]string{"check", "s3", "--config", f.config}, flags...)...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestCheckSays: 'sarsen check s3' says what is wrong, and which setting to look at.
func TestCheckSays(t *testing.T) {
	f := newFleet(t, "")
	wrong := filepath.Join(f.dir, "wrong.yaml")
	if err := os.WriteFile(wrong, []byte("access-key: testkey\nsecret-key: guessed\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	overTLS := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(overTLS.Close)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	for name, test := range map[string]struct {
		flags []string
		want  []string
	}{
		"bucket":      {[]string{"--bucket", "nosuch"}, []string{"there is no such bucket", `"nosuch"`, "bucket.name"}},
		"name":        {[]string{"--bucket", "Bad_Name"}, []string{`"Bad_Name"`, "bucket.name"}},
		"keys twice":  {[]string{"--bucket-profile", "builds"}, []string{"--bucket-profile: bucket.credentials is set too"}},
		"no file":     {[]string{"--bucket-credentials", "nosuch.yaml"}, []string{"can't read bucket.credentials", "nosuch.yaml"}},
		"secret":      {[]string{"--bucket-credentials", wrong}, []string{"refuses the credentials", "bucket.credentials, " + wrong, "get, put and delete"}},
		"port":        {[]string{"--bucket-endpoint", "http://127.0.0.1:1"}, []string{"can't be reached", "connection refused", "bucket.endpoint"}},
		"host":        {[]string{"--bucket-endpoint", "http://nosuch.invalid:9000"}, []string{"nosuch.invalid", "not known here", "bucket.endpoint"}},
		"no TLS":      {[]string{"--bucket-endpoint", strings.Replace(f.gate.Endpoint, "http:", "https:", 1)}, []string{"does not speak TLS", "write http://"}},
		"TLS":         {[]string{"--bucket-endpoint", strings.Replace(overTLS.URL, "https:", "http:", 1)}, []string{"if it speaks TLS", "write https://"}},
		"certificate": {[]string{"--bucket-endpoint", overTLS.URL}, []string{"certificate", "not trusted", "AWS_CA_BUNDLE"}},
		"silence":     {[]string{"--bucket-endpoint", "http://" + silent.Addr().String()}, []string{"can't be reached", "did not answer within 30s", "bucket.endpoint"}},
		"profile":     {[]string{"--bucket-credentials", "", "--bucket-profile", "nosuch"}, []string{"nosuch", "bucket.profile"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := f.check(nil, test.flags...)
			if err == nil {
				t.Fatalf("it succeeded: %s", out)
			}
			for _, want := range test.want {
				if !strings.Contains(out, want) {
					t.Errorf("got %s, want %q", out, want)
				}
			}
			if strings.Contains(out, "goroutine") {
				t.Errorf("got %s, want a sentence", out)
			}
		})
	}
}

// TestCheckRegion: a real server of another region.
func TestCheckRegion(t *testing.T) {
	f := newFleetOf(t, versitygw.Start(t, "--region", "eu-central-1"), "")
	out, err := f.check(nil)
	if err == nil || !strings.Contains(out, "another region than us-east-1") || !strings.Contains(out, "bucket.region") {
		t.Errorf("got %s, %v, want that the region is another", out, err)
	}
	if out, err := f.check(nil, "--bucket-region", "eu-central-1"); err != nil {
		t.Errorf("with the right region: %s, %v", out, err)
	}
	if out, err := f.check([]string{"AWS_REGION=eu-central-1"}); err != nil {
		t.Errorf("with the right region in the environment: %s, %v", out, err)
	}
	profiles := filepath.Join(f.dir, "config")
	text := fmt.Sprintf("[profile builds]\nregion = eu-central-1\naws_access_key_id = %s\naws_secret_access_key = %s\n", f.gate.AccessKey, f.gate.SecretKey)
	if err := os.WriteFile(profiles, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := f.check([]string{"AWS_CONFIG_FILE=" + profiles}, "--bucket-credentials", "", "--bucket-profile", "builds"); err != nil {
		t.Errorf("with the right region in the profile: %s, %v", out, err)
	}
}

// TestCheckProfile: credentials from a profile of the shared configuration.
func TestCheckProfile(t *testing.T) {
	f := newFleet(t, "")
	shared, config := filepath.Join(f.dir, "credentials"), filepath.Join(f.dir, "config")
	text := fmt.Sprintf("[default]\naws_access_key_id = nobody\naws_secret_access_key = nothing\n[builds]\naws_access_key_id = %s\naws_secret_access_key = %s\n", f.gate.AccessKey, f.gate.SecretKey)
	for path, text := range map[string]string{shared: text, config: "[profile builds]\nregion = us-east-1\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"AWS_SHARED_CREDENTIALS_FILE=" + shared, "AWS_CONFIG_FILE=" + config}
	if out, err := f.check(env, "--bucket-credentials", "", "--bucket-profile", "builds"); err != nil {
		t.Errorf("the profile: %s, %v", out, err)
	}
	out, err := f.check(env, "--bucket-credentials", "")
	if err == nil || !strings.Contains(out, "refuses the credentials") || !strings.Contains(out, "bucket.profile") {
		t.Errorf("the default profile: %s, %v, want that its keys are refused", out, err)
	}
}

// TestCheckRole: credentials from the instance's role, as a metadata service of version 2 gives them.
func TestCheckRole(t *testing.T) {
	f := newFleet(t, "")
	const token = "a-session-token-of-the-service"
	var asked atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /latest/api/token", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds"))
		fmt.Fprint(w, token)
	})
	const role = "/latest/meta-data/iam/security-credentials/"
	mux.HandleFunc("GET "+role, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Aws-Ec2-Metadata-Token") != token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.URL.Path == role {
			fmt.Fprint(w, "builder")
			return
		}
		asked.Add(1)
		_ = json.NewEncoder(w).Encode(map[string]string{
			"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": f.gate.AccessKey, "SecretAccessKey": f.gate.SecretKey,
			"Token": "", "Expiration": time.Now().Add(time.Hour).UTC().Format(time.RFC3339), "LastUpdated": time.Now().UTC().Format(time.RFC3339),
		})
	})
	service := httptest.NewServer(mux)
	defer service.Close()
	none := filepath.Join(f.dir, "none")
	env := []string{"AWS_EC2_METADATA_SERVICE_ENDPOINT=" + service.URL, "AWS_SHARED_CREDENTIALS_FILE=" + none, "AWS_CONFIG_FILE=" + none}
	if out, err := f.check(env, "--bucket-credentials", ""); err != nil || asked.Load() == 0 {
		t.Errorf("the role: %s, %v, and the service was asked %d times", out, err, asked.Load())
	}
	env[0] = "AWS_EC2_METADATA_DISABLED=true"
	out, err := f.check(env, "--bucket-credentials", "")
	if err == nil || !strings.Contains(out, "no credentials were found") || !strings.Contains(out, "bucket.credentials") {
		t.Errorf("no credentials at all: %s, %v, want bucket.credentials named", out, err)
	}
}

// TestGC: what 'sarsen gc' prints, and its status.
func TestGC(t *testing.T) {
	f := newFleet(t, "  collect: never\n")
	for _, test := range []struct {
		args   []string
		status int
		want   string
	}{
		{nil, 2, "which bucket?"},
		{[]string{"--config", f.config, "--max-size", "0"}, 2, "--all"},
		{[]string{"--config", f.config, "--max-size", "much"}, 2, `--max-size: "much" is not a size`},
		{[]string{"--config", f.config, "--grace", "5x"}, 2, `--grace: "5x" is not a duration`},
		{[]string{"--config", f.config, "--patience", "5x"}, 2, `--patience: "5x" is not a duration`},
		{[]string{"--config", f.config, "--all", "--max-size", "1TB"}, 2, "all max-size"},
		{[]string{"--config", f.config, "--grace", "-1h"}, 2, "not negative"},
		{[]string{"--config", f.config, "--server", "http://127.0.0.1:1"}, 2, "server"},
		{[]string{"--server", "http://127.0.0.1:1"}, 1, "http://127.0.0.1:1 does not answer (connection refused)"},
		{[]string{"--config", f.config, "--bucket", "nosuch"}, 1, "bucket.name"},
	} {
		out, err := f.run(append([]string{"gc"}, test.args...)...)
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok || exit.ExitCode() != test.status || !strings.Contains(err.Error(), test.want) {
			t.Errorf("gc %v: %s, %v, want status %d and %q", test.args, out, err, test.status, test.want)
		}
	}
	a := f.start("a")
	data := []byte("garbage")
	if err := a.put(data); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--server", a.base}, {"--config", f.config}} {
		out := f.mustRun(append([]string{"gc", "--all", "--dry-run", "--json"}, args...)...)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		var last struct {
			Report struct{ Objects, Candidates, Deleted int64 }
		}
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.Report.Candidates == 0 || last.Report.Deleted != 0 {
			t.Errorf("gc --dry-run %v: %s, %v, want candidates and nothing deleted", args, out, err)
		}
	}
	if err := a.get(data); err != nil {
		t.Errorf("after two dry runs: %v", err)
	}
	time.Sleep(2 * time.Second) // past the leases
	if out := f.mustRun("gc", "--server", a.base, "--all", "--patience", "0s"); !strings.Contains(out, "deleted") {
		t.Errorf("gc --all: %s", out)
	}
}
