// Package clients runs other people's clients against Sarsen: Bazel, buildbox,
// BuildStream, moon, ccache, sccache, Gradle, Nx, Turborepo, Nix, Metro's cache and Go, as their makers ship them,
// each with no network but its own loopback.
//
// The tests need root, because each client gets its own mount, network and process
// namespaces, and they download Debian and npm packages once, so they stand behind
// a build tag:
//
//	go test -tags clients -count=1 -v -timeout 75m ./test/clients
//
// What was downloaded stays in ${SARSEN_TEST_CACHE:-~/.cache/sarsen-test}. The work is
// done by the shell scripts of this folder, which also run by hand:
//
//	SARSEN=/path/to/sarsen test/clients/bazel.sh
package clients
