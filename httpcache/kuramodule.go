package httpcache

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

const (
	maxModule     = 2 << 30 // bytes, of all parts
	maxPartNumber = 10000
)

// kuraModule serves binaries of modules. They are uploaded in parts, which are entries of their own beside an entry
// that says that the upload began: so an upload goes on after a restart, and one that never ends is evicted.
func (x *exchange) kuraModule(id string, query url.Values) error {
	x.answers = forKuraModule
	post := x.r.Method == http.MethodPost
	switch {
	case id == "start" && post:
		return x.startModule(query)
	case id == "part" && post:
		return x.takePart(query)
	case id == "complete" && post:
		return x.completeModule(query)
	case x.r.Method != http.MethodGet && x.r.Method != http.MethodHead:
		return x.not("GET, HEAD; and POST of start, part and complete")
	}
	path, err := modulePath(query)
	if err != nil {
		return err
	}
	if x.r.Method == http.MethodGet {
		return x.get(path, "application/octet-stream")
	}
	o, err := x.lookUp(path)
	if err != nil {
		return err
	}
	defer o.Close()
	x.w.WriteHeader(http.StatusNoContent)
	return nil
}

// modulePath returns the path of the module that a query names.
func modulePath(query url.Values) (string, error) {
	hash, err := kuraName(query, "hash")
	if err != nil {
		return "", err
	}
	name, err := kuraName(query, "name")
	if err != nil {
		return "", err
	}
	category := "builds"
	if query.Has("cache_category") {
		if category, err = kuraName(query, "cache_category"); err != nil {
			return "", err
		}
	}
	return "module/" + category + "/" + hash + "/" + name, nil
}

// What an upload's own entry says.
const uploadOf = "module"

func partPath(upload string, n int) string { return fmt.Sprintf("upload/%s/%d", upload, n) }

// startModule begins an upload, unless the module is here.
func (x *exchange) startModule(query url.Values) error {
	path, err := modulePath(query)
	if err != nil {
		return err
	}
	var answer struct {
		ID *string `json:"upload_id"`
	}
	o, err := x.lookUp(path)
	if err == nil {
		o.Close()
		return x.json(answer)
	}
	if statusOf(err) != http.StatusNotFound {
		return err
	}
	id := rand.Text()
	if _, err := x.commit("upload/"+id, []*repb.NodeProperty{{Name: uploadOf, Value: path}}, receivedWhole(nil)); err != nil {
		return err
	}
	answer.ID = &id
	return x.json(answer)
}

// upload returns the upload that a query names, and the path of its module.
func (x *exchange) upload(query url.Values) (id, path string, err error) {
	if id, err = kuraName(query, "upload_id"); err != nil {
		return "", "", err
	}
	o, err := x.lookUp("upload/" + id)
	if err != nil {
		return "", "", err
	}
	defer o.Close()
	return id, o.value(uploadOf), nil
}

// takePart receives a part, which may be sent again.
func (x *exchange) takePart(query url.Values) error {
	n, err := strconv.Atoi(query.Get("part_number"))
	if err != nil || n < 1 || n > maxPartNumber {
		return refusal.New(http.StatusBadRequest, "part_number must be a number from 1 to %d", maxPartNumber)
	}
	id, _, err := x.upload(query)
	if err != nil {
		return err
	}
	x.once = false
	if _, err = x.take(partPath(id, n), nil); err != nil {
		return err
	}
	x.done(true)
	return nil
}

// completeModule makes the module of its parts.
func (x *exchange) completeModule(query url.Values) error {
	id, path, err := x.upload(query)
	if err != nil {
		return err
	}
	data, err := x.message(mib)
	if err != nil {
		return err
	}
	var order struct {
		Parts []int  `json:"parts"`
		Sum   string `json:"checksum_sha256"`
	}
	if err := json.Unmarshal(data, &order); err != nil || len(order.Parts) == 0 {
		return refusal.New(http.StatusBadRequest, "the body must be JSON with parts")
	}
	if err := wellFormedSum(order.Sum); err != nil {
		return err
	}
	body, err := x.assemble(id, order.Parts)
	if err != nil {
		return err
	}
	if err := matches(order.Sum, body.digest); err != nil {
		body.Close()
		return err
	}
	if _, err := x.commit(path, keptSum(order.Sum), body); err != nil {
		return err
	}
	// The parts are evicted in time: nobody asks for them again.
	return x.finish(func(ctx context.Context) error { return x.remove(ctx, x.space, "upload/"+id) })
}

// measure refuses parts of an upload that are not here, in no order, or too much in sum: before any is copied, since who
// is told that there is no room at the moment tries again.
func (x *exchange) measure(id string, parts []int) error {
	var size int64
	for i, n := range parts {
		if i > 0 && n <= parts[i-1] {
			return refusal.New(http.StatusBadRequest, "part %d comes after part %d", n, parts[i-1])
		}
		o, err := x.openPart(partPath(id, n))
		if err != nil {
			return err
		}
		size += o.digest.Size
		o.Close()
	}
	switch {
	case size > maxModule:
		return refusal.New(http.StatusUnprocessableEntity, "the parts have more than %d bytes", int64(maxModule))
	case size > x.MaxBlobSize:
		return refusal.New(http.StatusRequestEntityTooLarge, "the parts have more than the %d bytes that are taken", x.MaxBlobSize)
	}
	return nil
}

// assemble returns the parts of an upload, one after the other.
func (x *exchange) assemble(id string, parts []int) (*received, error) {
	if err := x.measure(id, parts); err != nil {
		return nil, err
	}
	f, err := x.newSpool(errNoSpool)
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	for _, n := range parts {
		if err := x.copyPart(io.MultiWriter(f, sum), partPath(id, n)); err != nil {
			f.Close()
			return nil, err
		}
	}
	d := digest.Digest{Function: digest.SHA256, Hash: [32]byte(sum.Sum(nil)), Size: f.taken}
	return &received{digest: d, file: f}, nil
}

func (x *exchange) openPart(path string) (*opened, error) {
	o, err := x.lookUp(path)
	if err != nil && statusOf(err) == http.StatusNotFound {
		return nil, refusal.New(http.StatusBadRequest, "%s is not here", path)
	}
	return o, err
}

func (x *exchange) copyPart(w io.Writer, path string) error {
	o, err := x.openPart(path)
	if err != nil {
		return err
	}
	defer o.Close()
	_, err = copyPooled(w, o)
	return err
}
