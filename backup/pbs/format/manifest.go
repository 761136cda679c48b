package format

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"maps"
	"strings"
)

// ManifestName is what the manifest's file is called.
const ManifestName = "index.json.blob"

// A Manifest describes a snapshot. What clients signed is kept as they wrote it.
type Manifest struct {
	BackupType  string          `json:"backup-type"`
	BackupID    string          `json:"backup-id"`
	BackupTime  int64           `json:"backup-time"`
	Files       []ManifestFile  `json:"files"`
	Signature   string          `json:"signature,omitempty"`
	Unprotected json.RawMessage `json:"unprotected,omitempty"`

	fields      map[string]json.RawMessage
	unprotected map[string]json.RawMessage
}

// A ManifestFile is one archive or blob of a snapshot.
type ManifestFile struct {
	Filename  string `json:"filename"`
	CryptMode string `json:"crypt-mode,omitempty"` // none, encrypt or sign-only
	Size      uint64 `json:"size"`
	Csum      string `json:"csum"`
}

// maxNesting bounds how deep a manifest's values nest, since encoding/json goes as deep as they do.
const maxNesting = 64

// ParseManifest reads the JSON of a manifest.
func ParseManifest(b []byte) (*Manifest, error) {
	if nesting(b) > maxNesting {
		return nil, bad("a manifest that nests deeper than %d", maxNesting)
	}
	m := &Manifest{}
	if err := json.Unmarshal(b, &m.fields); err != nil {
		return nil, bad("manifest: %v", err)
	}
	if m.fields == nil {
		return nil, bad("a manifest that is no object")
	}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, bad("manifest: %v", err)
	}
	if len(m.Unprotected) > 0 {
		if err := json.Unmarshal(m.Unprotected, &m.unprotected); err != nil {
			return nil, bad("the unprotected part of a manifest: %v", err)
		}
	}
	return m, nil
}

func nesting(b []byte) (deepest int) {
	depth, text := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case text && c == '\\':
			i++
		case c == '"':
			text = !text
		case text:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	return deepest
}

// Get reads one value of the unprotected part into v, and reports whether it is there.
func (m *Manifest) Get(name string, v any) bool {
	raw, ok := m.unprotected[name]
	return ok && !bytes.Equal(raw, []byte("null")) && json.Unmarshal(raw, v) == nil
}

// Set changes one value of the unprotected part. With nil it goes.
func (m *Manifest) Set(name string, v any) error {
	if v == nil {
		m.unprotected = maps.Clone(m.unprotected)
		delete(m.unprotected, name)
		return nil
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	m.unprotected = maps.Clone(m.unprotected)
	if m.unprotected == nil {
		m.unprotected = map[string]json.RawMessage{}
	}
	m.unprotected[name] = raw
	return nil
}

// Encode returns the manifest as JSON: all that it had, as it was written, and what was set.
func (m *Manifest) Encode() ([]byte, error) {
	fields := maps.Clone(m.fields)
	if fields == nil {
		return json.Marshal(m)
	}
	raw, err := json.Marshal(m.unprotected)
	if err != nil {
		return nil, err
	}
	fields["unprotected"] = raw
	return json.Marshal(fields)
}

// File returns what the manifest says of a file.
func (m *Manifest) File(name string) (ManifestFile, bool) {
	for _, f := range m.Files {
		if f.Filename == name {
			return f, true
		}
	}
	return ManifestFile{}, false
}

// Fingerprint returns the fingerprint of the key that encrypted or signed the snapshot, as clients print it, or "" if
// there is none, or what is none: 32 bytes in hexadecimal with colons between them. Clients refuse lists with others.
func (m *Manifest) Fingerprint() string {
	var text string
	m.Get("key-fingerprint", &text)
	text = strings.ToLower(text)
	sum, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
	if err != nil || len(sum) != 32 || len(text) != 32*3-1 {
		return ""
	}
	return text
}
