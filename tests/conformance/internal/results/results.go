// Package results makes of the events of a test program (test2json) one line for each test of the suite. Pure.
package results

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Root is the test program's one test. Its subtests are the suite's tests.
const Root = "TestConformance"

// reasonMax is the most characters of a reason that are shown.
const reasonMax = 300

// Event is one line of test2json (go doc cmd/test2json).
type Event struct {
	Action string
	Test   string
	Output string
	Time   time.Time
}

// Outcome is how a test ended.
type Outcome string

// The ends that a test can have; a test that has none when the program ends is Broken.
const (
	Passed  Outcome = "pass"
	Failed  Outcome = "FAIL"
	Skipped Outcome = "SKIP"
	Broken  Outcome = "DIED"
)

// Result is that of one test of the suite.
type Result struct {
	Name    string
	Outcome Outcome
	Seconds float64
	// Reason is why it did not pass, on one line.
	Reason string
	// Log is everything that it and its subtests said.
	Log string
}

// Reader gathers events.
type Reader struct {
	open map[string]*running
	root strings.Builder
	// RootPassed tells whether the program itself came to a good end.
	RootPassed bool
}

type running struct {
	// begun is when it said its first word: what testing measures leaves out the subtests that run in parallel.
	begun time.Time
	log   strings.Builder
	// said is what each subtest said, by its name; skipped and failed are subtests by how they ended.
	said            map[string]*strings.Builder
	order           []string
	skipped, failed []string
}

// NewReader has seen nothing.
func NewReader() *Reader { return &Reader{open: map[string]*running{}} }

// Take takes the next event and gives a result when a test of the suite ended by it.
func (r *Reader) Take(event Event) *Result {
	below, ok := strings.CutPrefix(event.Test, Root+"/")
	if !ok {
		switch {
		case event.Action == "output":
			r.root.WriteString(event.Output)
		case event.Action == "pass" && event.Test == Root:
			r.RootPassed = true
		}
		return nil
	}
	name, sub, _ := strings.Cut(below, "/")
	test := r.open[name]
	if test == nil {
		test = &running{begun: event.Time, said: map[string]*strings.Builder{}}
		r.open[name] = test
	}
	if event.Action == "output" {
		test.output(sub, event.Output)
		return nil
	}
	outcome, ended := map[string]Outcome{"pass": Passed, "fail": Failed, "skip": Skipped}[event.Action]
	if !ended {
		return nil
	}
	if sub != "" {
		switch outcome {
		case Skipped:
			test.skipped = append(test.skipped, sub)
		case Failed:
			test.failed = append(test.failed, sub)
		}
		return nil
	}
	delete(r.open, name)
	return test.result(name, outcome, event.Time.Sub(test.begun).Seconds())
}

// Rest are the tests that never ended, by name, and what the program said outside of all tests.
func (r *Reader) Rest() ([]Result, string) {
	var rest []Result
	for name, test := range r.open {
		rest = append(rest, *test.result(name, Broken, 0))
	}
	slices.SortFunc(rest, func(a, b Result) int { return strings.Compare(a.Name, b.Name) })
	return rest, r.root.String()
}

func (t *running) output(sub, text string) {
	t.log.WriteString(text)
	if t.said[sub] == nil {
		t.said[sub] = &strings.Builder{}
		t.order = append(t.order, sub)
	}
	t.said[sub].WriteString(text)
}

// result counts a test with a subtest that was skipped as skipped: it did not show all that it should.
func (t *running) result(name string, outcome Outcome, seconds float64) *Result {
	result := &Result{Name: name, Outcome: outcome, Seconds: seconds, Log: t.log.String()}
	if outcome == Passed && len(t.skipped) > 0 {
		result.Outcome, result.Reason = Skipped, "subtest "+t.skipped[0]
	}
	if outcome == Failed || outcome == Broken {
		result.Reason = t.reason()
	}
	if outcome == Skipped {
		result.Reason = lastSaid(t.text(""))
	}
	return result
}

func (t *running) text(sub string) string {
	if said := t.said[sub]; said != nil {
		return said.String()
	}
	return ""
}

// reason is that of the first subtest that failed and says why; those above it only say that it did.
func (t *running) reason() string {
	for _, sub := range t.order {
		if found := why(t.text(sub)); found != "" {
			if sub != "" {
				found = sub + ": " + found
			}
			return shorten(found)
		}
	}
	for _, sub := range slices.Backward(t.order) {
		if sub == "" || slices.Contains(t.failed, sub) {
			if found := lastSaid(t.text(sub)); found != "" {
				return shorten(strings.TrimPrefix(sub+": ", ": ") + found)
			}
		}
	}
	return "it says nothing"
}

var (
	// logLine is what testing puts before what is logged, and the suite's own time.
	logLine = regexp.MustCompile(`^\s*[\w.-]+\.go:\d+: (?:\d{4}-\d\d-\d\dT[\d:.]+Z: )?(.*)$`)
	// field is how testify begins its parts.
	field = regexp.MustCompile(`^\s*(Error Trace|Error|Test|Messages):\s*(.*)$`)
)

// why is what testify's first failure says, with the last thing that was logged before it; the suite logs there what it
// waits for.
func why(text string) string {
	message, cause, before, part := "", "", "", ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if found := field.FindStringSubmatch(line); found != nil {
			part = found[1]
			switch {
			case part == "Error Trace" && cause != "":
				return joined(message, cause, before)
			case part == "Error":
				cause = found[2]
			case part == "Messages":
				return joined(found[2], cause, before)
			}
			continue
		}
		if found := logLine.FindStringSubmatch(line); found != nil {
			if cause != "" {
				return joined(message, cause, before)
			}
			// A request that the end of the wait cut off says nothing of what was waited for.
			if strings.TrimSpace(found[1]) != "" && !strings.Contains(found[1], "context deadline exceeded") {
				before = found[1]
			}
			part = ""
			continue
		}
		if part == "Error" && strings.TrimSpace(line) != "" {
			cause = strings.TrimSpace(strings.TrimSuffix(cause, "Received unexpected error:") + " " + strings.TrimSpace(line))
		}
	}
	if cause == "" {
		return ""
	}
	return joined(message, cause, before)
}

// moment is how Go prints a condition's time.
var moment = regexp.MustCompile(` \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0000 UTC`)

// joined leaves the cause out where it only says that time was up and something else says what was waited for.
func joined(message, cause, before string) string {
	if before != "" && message != "" && strings.Contains(cause, "context deadline exceeded") {
		cause = ""
	}
	parts := []string{}
	for _, part := range []string{message, cause} {
		if part = strings.Join(strings.Fields(part), " "); part != "" {
			parts = append(parts, part)
		}
	}
	reason := strings.Join(parts, ": ")
	if before != "" {
		reason += " [" + moment.ReplaceAllString(strings.Join(strings.Fields(before), " "), "") + "]"
	}
	return reason
}

// lastSaid is the last line that was logged.
func lastSaid(text string) string {
	for _, line := range slices.Backward(strings.Split(text, "\n")) {
		if found := logLine.FindStringSubmatch(line); found != nil && strings.TrimSpace(found[1]) != "" {
			return strings.TrimSpace(found[1])
		}
	}
	return ""
}

func shorten(text string) string {
	if letters := []rune(text); len(letters) > reasonMax {
		return string(letters[:reasonMax]) + "…"
	}
	return text
}

// Line is how a result is shown.
func (r Result) Line() string {
	line := fmt.Sprintf("%s %6.1f s  %s", r.Outcome, r.Seconds, r.Name)
	if r.Outcome != Passed {
		line += "\n               " + r.Reason
	}
	return line
}
