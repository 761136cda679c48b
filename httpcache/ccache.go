package httpcache

import (
	"encoding/base32"
	"encoding/hex"
	"net/http"

	"github.com/sarsen-build/sarsen/internal/refusal"
)

// ccacheKey is how many digits a ccache key has.
const ccacheKey = 40

// How older versions, 4.7 among them, write the 20 bytes of a key: two in four digits, the rest in base32. In the bazel
// layout theirs is that of newer ones.
const (
	oldCcacheKey  = 33
	oldCcacheHead = 4
)

var oldCcacheBase = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// serveCcache serves ccache's built-in HTTP storage, http://HOST/ccache/NAMESPACE, in its three layouts:
// flat KEY, subdirs KE/Y, and bazel ac/KEY with the key's first digits again to make it 64. They are three names of one
// entry, so machines with different layouts share. To a GET all that is not 2xx is a miss. After a failed PUT a
// ccache process leaves the server alone. An empty entry, which ccache never makes, would be an error to it.
func serveCcache(x *exchange, rest []string) error {
	key, ok := ccachePath(rest)
	if !ok {
		return x.unknown()
	}
	if x.r.Method != http.MethodPut {
		return x.entry(key)
	}
	body, err := x.receive(key)
	if err != nil {
		return err
	}
	if body.digest.Size == 0 {
		body.Close()
		return refusal.New(http.StatusBadRequest, "an entry of ccache has some bytes")
	}
	stored, err := x.commit(key, nil, body)
	if err != nil {
		return err
	}
	x.done(stored)
	return nil
}

// ccachePath returns the key that a path names.
func ccachePath(rest []string) (key string, ok bool) {
	switch {
	case len(rest) == 1:
		key = rest[0]
	case len(rest) == 2 && rest[0] == "ac" && isHex(rest[1], 64) && rest[1][ccacheKey:] == rest[1][:64-ccacheKey]:
		key = rest[1][:ccacheKey]
	case len(rest) == 2 && len(rest[0]) == 2:
		key = rest[0] + rest[1]
	}
	if len(key) == oldCcacheKey {
		rest, err := oldCcacheBase.DecodeString(key[oldCcacheHead:])
		if err != nil || oldCcacheBase.EncodeToString(rest) != key[oldCcacheHead:] {
			return "", false
		}
		key = key[:oldCcacheHead] + hex.EncodeToString(rest)
	}
	return key, isHex(key, ccacheKey)
}
