package gocache

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
)

// serve returns what Serve answers to a text, one line each, and its error.
func serve(t testing.TB, in io.Reader) ([]response, error) {
	t.Helper()
	var out bytes.Buffer
	c := Open(Options{Dir: t.TempDir(), MaxSize: 1 << 30})
	trim, err := c.Serve(t.Context(), in, &out)
	defer trim()
	var all []response
	for d := json.NewDecoder(&out); ; {
		var r response
		if broken := d.Decode(&r); broken == io.EOF {
			return all, err
		} else if broken != nil {
			t.Fatalf("the answers can't be read: %v", broken)
		}
		if r.DiskPath != "" {
			if _, err := os.Stat(r.DiskPath); err != nil {
				t.Errorf("answer %d: %v", r.ID, err)
			}
		}
		all = append(all, r)
	}
}

func TestRequests(t *testing.T) {
	b64 := base64.StdEncoding.EncodeToString
	sum := sha256.Sum256([]byte("body"))
	ids := fmt.Sprintf(`"ActionID":%q,"OutputID":%q`, b64(actionOf(1)), b64(sum[:]))
	put := func(n int, size int, body string) string {
		return fmt.Sprintf("{\"ID\":%d,\"Command\":\"put\",%s,\"BodySize\":%d}\n\n%s\n", n, ids, size, body)
	}
	get := fmt.Sprintf("{\"ID\":7,\"Command\":\"get\",\"ActionID\":%q}\n\n", b64(actionOf(1)))
	closing := "{\"ID\":9,\"Command\":\"close\"}\n\n"
	quotedBody := `"` + b64([]byte("body")) + `"`
	for _, test := range []struct {
		name, in string
		want     string // IDs, and what was said
		err      error
	}{
		{"nothing", "", "0", nil},
		{"close", closing, "0 9", nil},
		{"put", put(1, 4, quotedBody) + closing, "0 1:disk 9", nil},
		{"no empty lines", strings.ReplaceAll(put(1, 4, quotedBody)+closing, "\n\n", "\n"), "0 1:disk 9", nil},
		{"empty body", fmt.Sprintf("{\"ID\":1,\"Command\":\"put\",%s}\n", ids) + closing, "0 1:disk 9", nil},
		{"body too long", put(1, 3, quotedBody) + closing, "0 1:err 9", nil},
		{"body too short", put(1, 5, quotedBody) + closing, "0 1:err 9", nil},
		{"unknown command", "{\"ID\":1,\"Command\":\"get2\"}\n" + closing, "0 1:err 9", nil},
		{"unknown command with a body", "{\"ID\":1,\"Command\":\"put2\",\"BodySize\":4}\n" + quotedBody + "\n" + closing, "0 1:err 9", nil},
		{"unknown field", "{\"ID\":1,\"Command\":\"close\",\"New\":{\"a\":[1]}}\n", "0 1", nil},
		{"get without an ID", "{\"ID\":1,\"Command\":\"get\"}\n", "0 1:err", nil},
		{"put without an ID", "{\"ID\":1,\"Command\":\"put\",\"BodySize\":4}\n" + quotedBody + "\n" + closing, "0 1:err 9", nil},
		{"after close", closing + get, "0 9", nil},
		{"no JSON", "hello\n", "0", ErrProtocol},
		{"negative size", put(1, -1, quotedBody), "0", ErrProtocol},
		{"body without quotes", put(1, 4, "body"), "0", ErrProtocol},
		{"escape in a body", put(1, 4, `"\u0041"`), "0", ErrProtocol},
		{"long request", "{\"ID\":1,\"Command\":\"" + strings.Repeat("x", maxRequest) + "\"}\n", "0", ErrProtocol},
		{"killed in a request", get[:20], "0", nil},
		{"killed before a body", put(1, 4, ""), "0", nil},
		{"killed in a body", put(1, 4, quotedBody[:4]), "0", nil},
	} {
		for way, in := range map[string]io.Reader{"whole": strings.NewReader(test.in), "byte by byte": iotest.OneByteReader(strings.NewReader(test.in))} {
			answers, err := serve(t, in)
			var got []string
			for _, a := range answers {
				one := fmt.Sprint(a.ID)
				if a.DiskPath != "" {
					one += ":disk"
				}
				if a.Err != "" {
					one += ":err"
				}
				got = append(got, one)
			}
			if strings.Join(got, " ") != test.want || !errors.Is(err, test.err) || test.err == nil && err != nil {
				t.Errorf("%s, %s: got %q and %v, want %q and %v", test.name, way, got, err, test.want, test.err)
			}
		}
	}
}

func FuzzRequests(f *testing.F) {
	f.Add([]byte("{\"ID\":1,\"Command\":\"get\",\"ActionID\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"}\n\n"))
	f.Add([]byte("{\"ID\":1,\"Command\":\"put\",\"ActionID\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\",\"OutputID\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\",\"BodySize\":4}\n\n\"Ym9keQ==\"\n"))
	f.Add([]byte("{\"ID\":1,\"Command\":\"close\"}\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if answers, _ := serve(t, bytes.NewReader(in)); len(answers) == 0 || len(answers[0].KnownCommands) == 0 {
			t.Errorf("got %v, want what is known first", answers)
		}
	})
}
