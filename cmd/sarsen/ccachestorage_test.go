package main

import (
	"strings"
	"testing"
	"time"
)

func TestCcacheStorageOptions(t *testing.T) {
	good := map[string]string{
		"CRSH_IPC_ENDPOINT": "/run/s", "CRSH_URL": "https://cache.example/ccache/team", "CRSH_IDLE_TIMEOUT": "600", "CRSH_NUM_ATTR": "1",
		"CRSH_ATTR_KEY_0": "bearer-token", "CRSH_ATTR_VALUE_0": "secret",
	}
	for _, test := range []struct{ name, value, wrong string }{
		{"", "", ""},
		{"CRSH_URL", "gopher://x", ""},     // it says so to ccache
		{"CRSH_ATTR_KEY_0", "unknown", ""}, // as well
		{"CRSH_IDLE_TIMEOUT", "0", ""},
		{"CRSH_IPC_ENDPOINT", "", "by hand"},
		{"CRSH_IDLE_TIMEOUT", "-1", "CRSH_IDLE_TIMEOUT"},
		{"CRSH_IDLE_TIMEOUT", "99999999999999999", "CRSH_IDLE_TIMEOUT"},
		{"CRSH_NUM_ATTR", "1000000", "CRSH_NUM_ATTR"},
		{"CRSH_NUM_ATTR", "", "CRSH_NUM_ATTR"},
	} {
		o, err := ccacheStorageOptions(func(name string) string {
			if name == test.name {
				return test.value
			}
			return good[name]
		})
		switch {
		case test.wrong == "" && err != nil, test.wrong != "" && (err == nil || !strings.Contains(err.Error(), test.wrong)):
			t.Errorf("%s=%s: got %v, want an error about %q", test.name, test.value, err, test.wrong)
		case test.name == "" && (o.Socket != "/run/s" || o.IdleTimeout != 10*time.Minute):
			t.Errorf("got %+v", o)
		}
	}
}
