package execution

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"github.com/dustin/go-humanize"
)

// A property is a platform property that has to be there as it is.
type property struct{ name, value string }

func (p property) String() string { return p.name + "=" + p.value }

// An amount is a platform property that is used up, in thousandths, so that sums are exact.
type amount struct {
	name string
	n    int64
}

func (a amount) String() string {
	return a.name + "=" + strconv.FormatFloat(float64(a.n)/1000, 'f', -1, 64)
}

// A need is what an action asks of a worker.
type need struct {
	exact   []property // sorted, each once
	minimum []amount   // sorted by name
	key     string     // the same for the same need
}

// wishes are properties of actions that any worker may pass over: the command line is complete without them.
// They say how a tool could be kept running from action to action.
var wishes = map[string]bool{
	"persistentWorkerKey": true, "persistentWorkerProtocol": true, "supports-workers": true, "requires-worker-protocol": true,
}

// parseNeed reads the platform of an action. Errors name the field.
func (s *Scheduler) parseNeed(field string, p *repb.Platform) (need, error) {
	var n need
	for i, prop := range p.GetProperties() {
		at := fmt.Sprintf("%s.properties[%d]", field, i)
		if prop.GetName() == "" {
			return need{}, invalid(at+".name", "a property without a name")
		}
		if wishes[prop.Name] {
			continue
		}
		if !s.minimum[prop.Name] {
			n.exact = append(n.exact, property{prop.Name, prop.GetValue()})
			continue
		}
		v, err := parseAmount(prop.GetValue(), math.Ceil)
		if err != nil {
			return need{}, invalid(at+".value", "%s: %v", prop.Name, err)
		}
		if slices.ContainsFunc(n.minimum, func(a amount) bool { return a.name == prop.Name }) {
			return need{}, invalid(at+".name", "%s is an amount and is given twice", prop.Name)
		}
		n.minimum = append(n.minimum, amount{prop.Name, v})
	}
	slices.SortFunc(n.exact, func(a, b property) int {
		return strings.Compare(a.name+"\x00"+a.value, b.name+"\x00"+b.value)
	})
	n.exact = slices.Compact(n.exact)
	slices.SortFunc(n.minimum, func(a, b amount) int { return strings.Compare(a.name, b.name) })
	var key strings.Builder
	for _, e := range n.exact {
		fmt.Fprintf(&key, "%q=%q,", e.name, e.value)
	}
	for _, m := range n.minimum {
		fmt.Fprintf(&key, "%q>%d,", m.name, m.n)
	}
	n.key = key.String()
	return n, nil
}

// Limits returns what its platform lets an action use, where it says so: processors and bytes of memory, 0 if there is
// no limit. Less than a mebibyte of memory is in units of the workers' own, and limits nothing.
func Limits(p *repb.Platform) (cpu float64, memory int64) {
	for _, prop := range p.GetProperties() {
		v, err := parseAmount(prop.GetValue(), math.Ceil)
		switch {
		case err != nil:
		case prop.Name == "cpu":
			cpu = float64(v) / 1000
		case prop.Name == "memory" && v/1000 >= 1<<20:
			memory = v / 1000
		}
	}
	return cpu, memory
}

// parseAmount reads a number in decimal, or one of bytes with a unit like 512MiB or 4GB, as thousandths.
func parseAmount(text string, round func(float64) float64) (int64, error) {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		if bytes, sizeErr := humanize.ParseBytes(text); sizeErr == nil {
			v, err = float64(bytes), nil
		}
	}
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
		return 0, fmt.Errorf("%q is not a number from 0 up, nor a size like 512MiB", text)
	}
	// A product like 0.29·1000 is a little more than what was meant.
	if v = math.Round(v*1e6) / 1e3; v > 1<<53 {
		return 0, fmt.Errorf("%q is too large", text)
	}
	return int64(round(v)), nil
}

// What a worker offers, and what of it is in use.
type capacity struct {
	exact map[string][]string // values by name
	total map[string]int64    // thousandths
	used  map[string]int64
}

// parseCapacity reads the properties of a worker. A property that is no amount may have several values.
func (s *Scheduler) parseCapacity(properties []*repb.Platform_Property) (capacity, error) {
	c := capacity{map[string][]string{}, map[string]int64{}, map[string]int64{}}
	for i, p := range properties {
		at := fmt.Sprintf("properties[%d]", i)
		if p.GetName() == "" {
			return c, invalid(at+".name", "a property without a name")
		}
		if !s.minimum[p.Name] {
			c.exact[p.Name] = append(c.exact[p.Name], p.GetValue())
			continue
		}
		if _, twice := c.total[p.Name]; twice {
			return c, invalid(at+".name", "%s is an amount and is given twice", p.Name)
		}
		v, err := parseAmount(p.GetValue(), math.Floor)
		if err != nil {
			return c, invalid(at+".value", "%s: %v", p.Name, err)
		}
		c.total[p.Name] = v
	}
	return c, nil
}

// lacks returns what of n a worker with this capacity never has, in words, and nothing if it can run such actions.
func (c *capacity) lacks(n *need) (lacks []string) {
	for _, e := range n.exact {
		if slices.Contains(c.exact[e.name], e.value) {
			continue
		}
		has := "none"
		if values := c.exact[e.name]; len(values) > 0 {
			has = strings.Join(values, " and ")
		}
		lacks = append(lacks, fmt.Sprintf("%s (it has %s)", e, has))
	}
	for _, m := range n.minimum {
		if c.total[m.name] < m.n {
			lacks = append(lacks, fmt.Sprintf("%s (it has %s)", m, amount{m.name, c.total[m.name]}))
		}
	}
	return lacks
}

// satisfies reports whether a worker with this capacity can run such actions when it is idle.
func (c *capacity) satisfies(n *need) bool {
	for _, e := range n.exact {
		if !slices.Contains(c.exact[e.name], e.value) {
			return false
		}
	}
	for _, m := range n.minimum {
		if c.total[m.name] < m.n {
			return false
		}
	}
	return true
}

// room reports whether the amounts of n are free now.
func (c *capacity) room(n *need) bool {
	for _, m := range n.minimum {
		if c.total[m.name]-c.used[m.name] < m.n {
			return false
		}
	}
	return true
}

// take uses the amounts of n, times sign.
func (c *capacity) take(n *need, sign int64) {
	for _, m := range n.minimum {
		c.used[m.name] += sign * m.n
	}
}

// unsatisfied says why no worker can run actions of n.
func (s *Scheduler) unsatisfied(n *need) string {
	if len(s.workers) == 0 {
		return "no worker is connected"
	}
	var closest *worker
	var fewest []string
	for _, w := range s.workers {
		if lacks := w.capacity.lacks(n); closest == nil || len(lacks) < len(fewest) {
			closest, fewest = w, lacks
		}
	}
	if len(fewest) == 0 {
		return fmt.Sprintf("only workers that are being drained have the platform, as %q", closest.name)
	}
	text := fmt.Sprintf("no worker has the platform; the closest, %q, lacks %s", closest.name, strings.Join(fewest, " and "))
	if slices.ContainsFunc(n.exact, func(p property) bool { return p.name == "container-image" }) && !s.declared("container-image") {
		text += "; no worker runs container images: leave container-image out"
	}
	return text
}

// declared reports whether a worker has the property with any value.
func (s *Scheduler) declared(name string) bool {
	return slices.ContainsFunc(s.workers, func(w *worker) bool { return len(w.capacity.exact[name]) > 0 })
}
