//go:build unix && !linux

package offheap

func preferHugePages([]byte) {}
