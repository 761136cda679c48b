//go:build !unix

package launch

import (
	"fmt"
	"os"
)

func compile([]string) int {
	fmt.Fprintln(os.Stderr, "sarsen cc: this system is not supported; call the compiler without sarsen cc")
	return 1
}

func closeInherited() {}
