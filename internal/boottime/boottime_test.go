package boottime

import (
	"testing"
	"time"
)

func TestGoesOn(t *testing.T) {
	before := Now()
	time.Sleep(time.Millisecond)
	if after := Now(); after <= before {
		t.Errorf("Now = %v, and %v a millisecond later", before, after)
	}
}
