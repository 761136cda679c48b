package main

import (
	"runtime"
	"slices"
	"testing"
)

func TestPlatform(t *testing.T) {
	for arch, want := range map[string][]string{"amd64": {"x86-64"}, "arm64": {"arm-a64", "aarch64"}, "riscv64": {"riscv64"}} {
		if got := isa(arch); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", arch, got, want)
		}
	}
	for system, want := range map[string]string{"linux": "linux", "darwin": "macos"} {
		if got := osFamily(system); got != want {
			t.Errorf("%s: got %q, want %q", system, got, want)
		}
	}
	ps, err := platform([]string{"ISA=mine", "pool=a", "pool=b"})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, p := range ps {
		got[p.Name] = append(got[p.Name], p.Value)
	}
	if !slices.Equal(got["ISA"], []string{"mine"}) || !slices.Equal(got["pool"], []string{"a", "b"}) ||
		!slices.Equal(got["OSFamily"], []string{osFamily(runtime.GOOS)}) || len(got["cpu"]) != 1 {
		t.Errorf("got %v, want what was given and the machine's own", got)
	}
}
