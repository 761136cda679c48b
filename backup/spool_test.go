package backup

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/internal/model"
)

// TestSpoolFails: a body that came whole and can't be read back is the server's failure, not the client's mistake.
func TestSpoolFails(t *testing.T) {
	s := model.New(time.Hour)
	h := New(Options{Store: s, Keeper: s, SpoolDir: t.TempDir()}).(*handler)
	q := &request{handler: h, r: httptest.NewRequest("PUT", "/casync/s/x.caibx", strings.NewReader("an index"))}
	file, err := q.spool()
	if err != nil {
		t.Fatal(err)
	}
	if err := file.file.Close(); err != nil { // so that it fails to be read
		t.Fatal(err)
	}
	err = q.stream(file.digest, file.all())
	if got := statusOf(err); got != http.StatusInternalServerError {
		t.Errorf("reading the spooled body back failed: got %d for %v, want 500", got, err)
	}
}
