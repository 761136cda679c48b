package httpcache

import (
	"encoding/json"
	"time"
)

// status answers /status. moon asks for it before anything else and goes on after any 2xx.
func (h *handler) status(w *response) error {
	answer := struct {
		Version string  `json:"version"`
		Uptime  float64 `json:"uptime_seconds"`
		GRPC    string  `json:"grpc,omitempty"`
		Status  any     `json:"status,omitempty"`
	}{Version: h.Version, Uptime: time.Since(h.started).Seconds()}
	if h.GRPCAddr != nil {
		answer.GRPC = h.GRPCAddr()
	}
	if h.Status != nil {
		answer.Status = h.Status()
	}
	data, err := json.MarshalIndent(answer, "", "  ")
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	whole(w, append(data, '\n'))
	return nil
}
