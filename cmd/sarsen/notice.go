package main

import (
	"fmt"
	"io"
	"net"

	"github.com/sarsen-build/sarsen/config"
)

// printReady says that everything works and what to do with it. Scripts wait for its first line.
func printReady(w io.Writer, c *config.Config, grpcAddr, httpAddr, pbsNotice string, slots int) {
	text := fmt.Sprintf(`sarsen is ready

For Bazel, put one of these lines into .bazelrc (gRPC is the faster one):
  build --remote_cache=grpc://%s
  build --remote_cache=http://%s

%s
Data:    %s
Limit:   %s (--max-size)
Status:  http://%s/status
%sCtrl-C stops it and leaves a clean store.
`, grpcAddr, httpAddr, executes(grpcAddr, slots), c.Dir, config.FormatSize(c.MaxSize), httpAddr, pbsNotice)
	if open := openAddresses(c); open != "" {
		text += open
	}
	// One write: who waits for the first line may read on at once. If nobody reads, serving goes on.
	_, _ = io.WriteString(w, text)
}

// executes says how actions are run here, or by whom.
func executes(grpcAddr string, slots int) string {
	if slots > 0 {
		return fmt.Sprintf(`To run actions here too, %d at once, add:
  build --remote_executor=grpc://%s
`, slots, grpcAddr)
	}
	return fmt.Sprintf(`Actions run where a worker is started: sarsen worker --scheduler %s
`, grpcAddr)
}

// openAddresses warns of addresses that other machines can reach, if there are any.
func openAddresses(c *config.Config) string {
	for _, address := range []string{c.GRPC, c.HTTP} {
		if host, _, err := net.SplitHostPort(address); err == nil && !isLoopback(host) {
			return "Whoever can reach this machine can read and write the cache and run actions. Other machines use its name in the lines above.\n"
		}
	}
	return ""
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// advertised returns how clients reach a listener: the host that the user wrote, with the port that
// it got. A host that stands for all addresses becomes loopback, which is right at least here.
func advertised(configured string, listening net.Addr) string {
	host, _, err := net.SplitHostPort(configured)
	if err != nil {
		return listening.String()
	}
	_, port, err := net.SplitHostPort(listening.String())
	if err != nil {
		return listening.String()
	}
	switch ip := net.ParseIP(host); {
	case host == "", ip != nil && ip.IsUnspecified():
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}
