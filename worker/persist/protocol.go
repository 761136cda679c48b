package persist

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
)

// A protocol says how messages are written.
type protocol string

const (
	asProto protocol = "proto" // each after its length as a varint
	asJSON  protocol = "json"  // JSON values one after the other
)

func protocolOf(name string) (protocol, error) {
	switch name {
	case "", "proto", "protobuf":
		return asProto, nil
	case "json":
		return asJSON, nil
	}
	return "", fmt.Errorf("%s %q is none of proto and json", protocolProperty, name)
}

// Fields of the messages of Bazel's worker_protocol.proto.
const (
	requestArguments = 1
	requestInputs    = 2
	inputPath        = 1
	inputDigest      = 2

	responseExitCode     = 1
	responseOutput       = 2
	responseID           = 3
	responseWasCancelled = 4
)

// encode returns a WorkRequest. Its request_id is 0, which says that no other is sent before it is answered. The digest of
// an input is, as Bazel has it, the hash in hexadecimal.
func (p protocol) encode(arguments []string, inputs []Input) ([]byte, error) {
	if p == asJSON {
		return encodeJSON(arguments, inputs)
	}
	var body, in []byte
	for _, a := range arguments {
		body = protowire.AppendTag(body, requestArguments, protowire.BytesType)
		body = protowire.AppendString(body, a)
	}
	for _, i := range inputs {
		in = protowire.AppendTag(in[:0], inputPath, protowire.BytesType)
		in = protowire.AppendString(in, i.Path)
		in = protowire.AppendTag(in, inputDigest, protowire.BytesType)
		in = protowire.AppendString(in, i.Digest.Hex())
		body = protowire.AppendTag(body, requestInputs, protowire.BytesType)
		body = protowire.AppendBytes(body, in)
	}
	return append(binary.AppendUvarint(nil, uint64(len(body))), body...), nil
}

func encodeJSON(arguments []string, inputs []Input) ([]byte, error) {
	type input struct {
		Path   string `json:"path"`
		Digest []byte `json:"digest"` // base64, as proto3 writes bytes
	}
	message := struct {
		Arguments []string `json:"arguments"`
		Inputs    []input  `json:"inputs"`
		ID        int32    `json:"requestId"`
	}{append([]string{}, arguments...), make([]input, len(inputs)), 0}
	for i, in := range inputs {
		message.Inputs[i] = input{in.Path, []byte(in.Digest.Hex())}
	}
	body, err := json.Marshal(message)
	return append(body, '\n'), err
}

// A response is a WorkResponse.
type response struct {
	ExitCode     int32  `json:"exitCode"`
	Output       string `json:"output"`
	ID           int32  `json:"requestId"`
	WasCancelled bool   `json:"wasCancelled"`
}

// A codec reads the responses of one tool.
type codec interface {
	// read returns the next one. io.EOF and io.ErrUnexpectedEOF are the end of what the tool says.
	read() (response, error)
	// rest returns what was read beyond the last one.
	rest() []byte
}

func (p protocol) codec(r io.Reader) codec {
	if p == asJSON {
		return &jsonCodec{r: bufio.NewReader(r)}
	}
	return protoCodec{bufio.NewReader(r)}
}

type protoCodec struct{ r *bufio.Reader }

func (c protoCodec) rest() []byte {
	b, _ := c.r.Peek(c.r.Buffered())
	return b
}

func (c protoCodec) read() (r response, err error) {
	n, err := binary.ReadUvarint(c.r)
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || n == 0:
		return r, err
	case err != nil:
		return r, fmt.Errorf("a length: %w", err)
	case n > maxResponse:
		return r, fmt.Errorf("a response of %d bytes, more than %d", n, maxResponse)
	}
	// Text begins with something that is no field of a response. Without this look its first letter would be
	// taken for a length, and waited for.
	tag, err := c.r.Peek(1)
	if err != nil {
		return r, err
	}
	switch tag[0] {
	case responseExitCode << 3, responseOutput<<3 | 2, responseID << 3, responseWasCancelled << 3:
	default:
		return r, errors.New("no WorkResponse after its length")
	}
	var buf bytes.Buffer
	if _, err := io.CopyN(&buf, c.r, int64(n)); err != nil {
		return r, err
	}
	err = r.decode(buf.Bytes())
	return r, err
}

func (r *response) decode(b []byte) error {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		switch {
		case field == responseOutput && kind == protowire.BytesType:
			var text []byte
			text, n = protowire.ConsumeBytes(b)
			r.Output = string(text)
		case kind == protowire.VarintType:
			var v uint64
			v, n = protowire.ConsumeVarint(b)
			switch field {
			case responseExitCode:
				r.ExitCode = int32(v)
			case responseID:
				r.ID = int32(v)
			case responseWasCancelled:
				r.WasCancelled = v != 0
			}
		default:
			n = protowire.ConsumeFieldValue(field, kind, b)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
	}
	return nil
}

// A jsonCodec uses a decoder for each message: what is left of one is white space, or the tool is given up.
type jsonCodec struct {
	r *bufio.Reader
	d *json.Decoder
}

func (c *jsonCodec) rest() []byte {
	decoded, _ := io.ReadAll(c.d.Buffered())
	buffered, _ := c.r.Peek(c.r.Buffered())
	return bytes.TrimSpace(append(decoded, buffered...))
}

func (c *jsonCodec) read() (r response, err error) {
	for {
		b, err := c.r.ReadByte()
		switch {
		case err != nil:
			return r, err
		case b == ' ' || b == '\t' || b == '\r' || b == '\n':
			continue
		case b != '{': // the decoder would wait for the end of a number or string
			return r, errors.New("no JSON object")
		}
		if err := c.r.UnreadByte(); err != nil {
			return r, err
		}
		c.d = json.NewDecoder(c.r)
		c.d.DisallowUnknownFields()
		err = c.d.Decode(&r)
		return r, err
	}
}

// maxSaid is how much of what a tool said is quoted, in bytes.
const maxSaid = 1 << 10

// A tap passes on what a tool says while it answers one request, up to a bound, and remembers how that began.
type tap struct {
	r    io.Reader
	left int
	said []byte
}

var errTooMuch = fmt.Errorf("more than %d bytes without a whole response", maxResponse)

func (t *tap) reset() { t.left, t.said = maxResponse+16, nil }

func (t *tap) Read(b []byte) (int, error) {
	if t.left <= 0 {
		return 0, errTooMuch
	}
	n, err := t.r.Read(b[:min(len(b), t.left)])
	t.left -= n
	t.said = append(t.said, b[:min(n, maxSaid-len(t.said))]...)
	return n, err
}
