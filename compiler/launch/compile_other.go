//go:build !unix

package launch

func compile([]string) int {
	complain("this system is not supported; call the compiler without sarsen cc")
	return 1
}
