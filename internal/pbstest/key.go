package pbstest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"

	"github.com/sarsen-build/sarsen/backup/pbs/format"
)

// A Key encrypts a client's backups. A nil one does not.
type Key struct {
	id   []byte // what is derived for digests and signatures
	aead cipher.AEAD
}

// NewKey returns the key of 32 bytes.
func NewKey(secret [32]byte) *Key {
	id, err := pbkdf2.Key(sha256.New, string(secret[:]), []byte("_id_key"), 10, 32)
	if err != nil {
		panic(err) // only wrong lengths fail
	}
	block, err := aes.NewCipher(secret[:])
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCMWithNonceSize(block, 16)
	if err != nil {
		panic(err)
	}
	return &Key{id, aead}
}

// Digest returns what a chunk is called.
func (k *Key) Digest(plain []byte) [32]byte {
	if k == nil {
		return sha256.Sum256(plain)
	}
	return sha256.Sum256(append(append([]byte{}, plain...), k.id...))
}

// Encode returns a data blob of plain.
func (k *Key) Encode(plain []byte) []byte {
	if k == nil {
		return format.EncodeBlob(plain)
	}
	d := format.DataBlob{Encrypted: true}
	if c := format.Compress(plain); len(c) < len(plain) {
		d.Compressed, plain = true, c
	}
	_, _ = rand.Read(d.IV[:]) // never fails
	sealed := k.aead.Seal(nil, d.IV[:], plain, nil)
	n := len(sealed) - len(d.Tag)
	d.Data, d.Tag = sealed[:n], [16]byte(sealed[n:])
	return d.Append(nil)
}

// Decode returns what a data blob stands for.
func (k *Key) Decode(blob []byte) ([]byte, error) {
	d, err := format.ParseBlob(blob)
	if err != nil {
		return nil, err
	}
	if !d.Encrypted {
		return d.Plain(format.MaxChunk)
	}
	if k == nil {
		return nil, errors.New("encrypted, and there is no key")
	}
	plain, err := k.aead.Open(nil, d.IV[:], append(append([]byte{}, d.Data...), d.Tag[:]...), nil)
	if err != nil {
		return nil, err
	}
	if d.Compressed {
		return format.Decompress(plain, format.MaxChunk)
	}
	return plain, nil
}

// sign returns the signature of a manifest: that of its JSON with sorted names, without what may change.
func (k *Key) sign(manifest []byte) (string, error) {
	var m map[string]any
	if err := json.Unmarshal(manifest, &m); err != nil {
		return "", err
	}
	delete(m, "signature")
	delete(m, "unprotected")
	canonical, err := json.Marshal(m)
	if err != nil {
		return "", err
	}
	h := hmac.New(sha256.New, k.id)
	h.Write(canonical)
	return hex.EncodeToString(h.Sum(nil)), nil
}
