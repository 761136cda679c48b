package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"syscall"
)

// A line is what a server says while it works on something. The last one says that all was done, or what went wrong.
type line interface {
	end() (whole bool, trouble string)
}

// askServer has a running server work on what it is asked for, and hands on each line that it says.
func askServer[L line](ctx context.Context, server, path string, query url.Values, say func(L)) error {
	answer, err := post(ctx, server, path, query)
	if err != nil {
		return err
	}
	defer answer.Close()
	whole := false
	for lines := json.NewDecoder(answer); ; {
		var l L
		if err := lines.Decode(&l); err == io.EOF && whole {
			return nil
		} else if err != nil {
			return fmt.Errorf("%s broke off before the end: %w", server, err)
		}
		last, trouble := l.end()
		if trouble != "" {
			return fmt.Errorf("%s: %s", server, trouble)
		}
		whole = whole || last
		say(l)
	}
}

// post posts to a running server, and returns its answer.
func post(ctx context.Context, server, path string, query url.Values) (io.ReadCloser, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, &usageError{fmt.Errorf("--server %q is not the address of an HTTP port; write http://HOST:PORT, like http://127.0.0.1:8981", server)}
	}
	u = u.JoinPath(path)
	u.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, explainSilence(server, err)
	}
	if answer.StatusCode != http.StatusOK {
		defer answer.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10)) // the status says it too
		return nil, fmt.Errorf("%s answers %s: %s", server, answer.Status, bytes.TrimSpace(text))
	}
	return answer.Body, nil
}

// explainSilence says what to do where no server answers at an HTTP address.
func explainSilence(server string, err error) error {
	var down *url.Error
	if errors.As(err, &down) {
		err = down.Err
	}
	cause := err.Error()
	var refused syscall.Errno
	if errors.As(err, &refused) {
		cause = refused.Error()
	}
	return fmt.Errorf("%s does not answer (%s); start a server with 'sarsen up' or name the HTTP port of another with --server", server, cause)
}
