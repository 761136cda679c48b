//go:build clients

package clients_test

import (
	"testing"
	"time"
)

func TestGoCacheProg(t *testing.T) {
	require(t, "go")
	script(t, 20*time.Minute, "gocacheprog.sh")
}

func TestCcacheStorage(t *testing.T) {
	require(t)
	root := script(t, 20*time.Minute, "sidroot.sh")
	script(t, 10*time.Minute, "ccachestorage.sh", "SARSEN_TEST_ROOT="+root)
}
