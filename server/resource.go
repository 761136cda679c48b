package server

import (
	"fmt"
	"strconv"
	"strings"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/digest"
)

const (
	// maxResourceName bounds a resource name, which is kept with an unfinished upload, in bytes.
	maxResourceName = 4096
	// maxInstance bounds an instance name, in bytes: it becomes part of every result's record.
	maxInstance = 1024
)

const (
	readForm  = "[INSTANCE/]blobs/[blake3/]HASH/SIZE or [INSTANCE/]compressed-blobs/zstd/[blake3/]HASH/SIZE"
	writeForm = "[INSTANCE/]uploads/UUID/blobs/[blake3/]HASH/SIZE[/METADATA] or [INSTANCE/]uploads/UUID/compressed-blobs/zstd/[blake3/]HASH/SIZE[/METADATA]"
)

// A resource is what a ByteStream resource name names, as the comment on ContentAddressableStorage
// lays it down.
type resource struct {
	instance   string
	upload     string // the UUID; "" in the name of a blob to read
	compressed bool   // with zstd
	digest     digest.Digest
	metadata   string // what follows the size of an upload; ignored
}

// parseRead reads the name of a blob to read.
func parseRead(name string) (resource, error) {
	r, kind, rest, err := parseInstance(name)
	if err == nil && kind != "blobs" && kind != "compressed-blobs" {
		err = fmt.Errorf("unexpected %q", kind)
	}
	if err == nil {
		err = r.parseBlob(kind, rest)
	}
	if err == nil && r.metadata != "" {
		err = fmt.Errorf("unexpected %q after the size", r.metadata)
	}
	if err != nil {
		return resource{}, invalid("resource_name: %q: %v; want %s", clip(name), err, readForm)
	}
	return r, nil
}

// parseWrite reads the name of a blob to write. The UUID may be any text: servers have no use for
// its form, and clients take liberties with it.
func parseWrite(name string) (resource, error) {
	r, kind, rest, err := parseInstance(name)
	if err == nil && kind != "uploads" {
		err = fmt.Errorf("unexpected %q", kind)
	}
	if err == nil {
		r.upload, rest, _ = strings.Cut(rest, "/")
		if r.upload == "" || isKeyword(r.upload) {
			err = fmt.Errorf("no UUID after \"uploads\"")
		}
	}
	if err == nil {
		kind, rest, _ = strings.Cut(rest, "/")
		err = r.parseBlob(kind, rest)
	}
	if err != nil {
		return resource{}, invalid("resource_name: %q: %v; want %s", clip(name), err, writeForm)
	}
	return r, nil
}

// parseInstance cuts name at its first keyword. What stands before it is the instance, which may
// have any number of segments.
func parseInstance(name string) (r resource, kind, rest string, err error) {
	if len(name) > maxResourceName {
		return r, "", "", fmt.Errorf("longer than %d bytes", maxResourceName)
	}
	for start := 0; start < len(name); {
		segment, after, _ := strings.Cut(name[start:], "/")
		if isKeyword(segment) {
			r.instance = strings.TrimSuffix(name[:start], "/")
			if len(r.instance) > maxInstance {
				return r, "", "", fmt.Errorf("an instance_name longer than %d bytes", maxInstance)
			}
			return r, segment, after, nil
		}
		start += len(segment) + 1
	}
	return r, "", "", fmt.Errorf("no \"blobs\" in it")
}

// checkInstance refuses a message with an instance name that is too long.
func checkInstance(message any) error {
	if m, ok := message.(interface{ GetInstanceName() string }); ok && len(m.GetInstanceName()) > maxInstance {
		return invalid("instance_name: %d bytes long, at most %d are taken", len(m.GetInstanceName()), maxInstance)
	}
	return nil
}

// isKeyword reports whether a segment has a meaning of its own, so that no instance may have it.
func isKeyword(segment string) bool {
	switch segment {
	case "blobs", "uploads", "actions", "actionResults", "operations", "capabilities", "compressed-blobs":
		return true
	}
	return false
}

// parseBlob reads what follows the keyword kind.
func (r *resource) parseBlob(kind, rest string) error {
	switch kind {
	case "blobs":
	case "compressed-blobs":
		var compressor string
		compressor, rest, _ = strings.Cut(rest, "/")
		if compressor != "zstd" {
			return fmt.Errorf("compressor %q is not supported, only zstd", compressor)
		}
		r.compressed = true
	default:
		return fmt.Errorf("unexpected %q, not \"blobs\" or \"compressed-blobs\"", kind)
	}
	function := digest.SHA256
	hash, rest, _ := strings.Cut(rest, "/")
	switch {
	case hash == "blake3":
		function = digest.BLAKE3
		hash, rest, _ = strings.Cut(rest, "/")
	case hash == "sha256":
		return fmt.Errorf("the digest function is left out for sha256")
	case repb.DigestFunction_Value_value[strings.ToUpper(hash)] != 0:
		return fmt.Errorf("digest function %s is not supported, only sha256 and blake3", hash)
	}
	sizeText, metadata, _ := strings.Cut(rest, "/")
	size, err := parseSize(sizeText)
	if err != nil {
		return err
	}
	r.metadata = metadata
	r.digest, err = digest.New(function, hash, size)
	return err
}

// parseSize reads a number of bytes. ParseInt alone would also take signs.
func parseSize(text string) (int64, error) {
	if text == "" || text[0] < '0' || text[0] > '9' {
		return 0, fmt.Errorf("size %q is not a number of bytes", text)
	}
	size, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("size %q is not a number of bytes", text)
	}
	return size, nil
}

// String returns the name in its only spelling: what parseRead or parseWrite reads.
func (r resource) String() string {
	var b strings.Builder
	if r.instance != "" {
		b.WriteString(r.instance + "/")
	}
	if r.upload != "" {
		b.WriteString("uploads/" + r.upload + "/")
	}
	if r.compressed {
		b.WriteString("compressed-blobs/zstd/")
	} else {
		b.WriteString("blobs/")
	}
	b.WriteString(r.digest.String())
	if r.metadata != "" {
		b.WriteString("/" + r.metadata)
	}
	return b.String()
}

// clip shortens what a client sent for an error message.
func clip(text string) string {
	if len(text) > 200 {
		return text[:200] + "…"
	}
	return text
}
