package model_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/storetest"
)

func open(t *testing.T) storetest.Fixture {
	s := model.New(time.Hour)
	return storetest.Fixture{
		Store: s,
		Lease: time.Hour,
		Sizes: []int{1, 100, 5000},
		Evict: s.Evict,
		Leaks: func() error {
			if n := s.Pins(); n > 0 {
				return fmt.Errorf("%d pins are held", n)
			}
			return nil
		},
		Close: func() {},
	}
}

func TestStore(t *testing.T)  { storetest.Run(t, open) }
func TestSeeded(t *testing.T) { storetest.Seeded(t, open) }

func TestKeeper(t *testing.T)       { storetest.Keeper(t, open) }
func TestSeededKeeper(t *testing.T) { storetest.SeededKeeper(t, open) }
