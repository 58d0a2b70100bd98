package results

import (
	"strings"
	"testing"
	"time"
)

// play takes the events, each written as "ACTION TEST" or "output TEST TEXT", and gives what ended.
func play(t *testing.T, reader *Reader, events ...string) map[string]Result {
	t.Helper()
	ended := map[string]Result{}
	now := time.Unix(0, 0)
	for _, written := range events {
		action, rest, _ := strings.Cut(written, " ")
		test, text, _ := strings.Cut(rest, " ")
		if test == "." {
			test = Root
		} else {
			test = Root + "/" + test
		}
		event := Event{Action: action, Test: test, Time: now}
		now = now.Add(time.Second)
		if action == "output" {
			event.Output = text + "\n"
		}
		if result := reader.Take(event); result != nil {
			ended[result.Name] = *result
		}
	}
	return ended
}

func TestEachOutcomeIsTold(t *testing.T) {
	reader := NewReader()
	ended := play(t, reader,
		"run .", "run Good", "pass Good", "run Bad", "fail Bad", "run Left", "output Left     x.go:1: left out", "skip Left",
		"run Half", "run Half/one", "skip Half/one", "pass Half", "run Dead", "output Dead panic: no", "fail .",
	)
	for name, wanted := range map[string]Outcome{"Good": Passed, "Bad": Failed, "Left": Skipped, "Half": Skipped} {
		if ended[name].Outcome != wanted {
			t.Errorf("%s ended as %q instead of %q", name, ended[name].Outcome, wanted)
		}
	}
	if ended["Left"].Reason != "left out" || ended["Half"].Reason != "subtest one" {
		t.Errorf("the reasons: %q, %q", ended["Left"].Reason, ended["Half"].Reason)
	}
	if ended["Half"].Seconds != 3 {
		t.Errorf("from its first word to its last it is 3 s, not %v", ended["Half"].Seconds)
	}
	rest, _ := reader.Rest()
	if len(rest) != 1 || rest[0].Name != "Dead" || rest[0].Outcome != Broken || !strings.Contains(rest[0].Log, "panic: no") {
		t.Errorf("what never ended: %+v", rest)
	}
	if reader.RootPassed {
		t.Error("the program did not pass")
	}
	if play(t, reader, "pass ."); !reader.RootPassed {
		t.Error("the program passed")
	}
}

func TestReasonIsTheFirstFailureOfTheFirstSubtestThatSaysOne(t *testing.T) {
	ended := play(t, NewReader(),
		"run Bad", "run Bad/fine",
		"output Bad/fine     helpers.go:1: 2026-11-21T16:05:39.796Z: this one passes", "pass Bad/fine",
		"run Bad/broken",
		"output Bad/broken     helpers.go:279: 2026-11-21T16:05:39.796Z: Gateway not Accepted: {False 2026-11-21 16:05:28 +0000 UTC Invalid}",
		"output Bad/broken     helpers.go:280: 2026-11-21T16:05:39.797Z: Get: context deadline exceeded",
		"output Bad/broken     suite.go:436: ",
		"output Bad/broken         	Error Trace:	helpers.go:312",
		"output Bad/broken         	            				suite.go:436",
		"output Bad/broken         	Error:      	Received unexpected error:",
		"output Bad/broken         	            	context deadline exceeded",
		"output Bad/broken         	Test:       	TestConformance",
		"output Bad/broken         	Messages:   	error waiting",
		"output Bad/broken     apply.go:1: Deleting",
		"fail Bad/broken", "fail Bad",
	)
	wanted := "broken: error waiting [Gateway not Accepted: {False Invalid}]"
	if ended["Bad"].Reason != wanted {
		t.Errorf("%q instead of %q", ended["Bad"].Reason, wanted)
	}
}

func TestReasonWithoutAMessageAndWithoutTestify(t *testing.T) {
	ended := play(t, NewReader(),
		"run Bare", "output Bare     a.go:1: ", "output Bare         	Error Trace:	b.go:2",
		"output Bare         	Error:      	Not equal:", "output Bare         	            	expected: 1",
		"output Bare         	Test:       	TestConformance/Bare", "output Bare     a.go:3: after", "fail Bare",
		"run Fatal", "output Fatal     a.go:1: Expected 200, got 404", "run Fatal/fine", "output Fatal/fine     a.go:2: fine",
		"pass Fatal/fine", "fail Fatal",
		"run Long", "output Long     a.go:1: "+strings.Repeat("ä", 1000), "fail Long",
	)
	for name, wanted := range map[string]string{
		"Bare": "Not equal: expected: 1", "Fatal": "Expected 200, got 404", "Long": strings.Repeat("ä", reasonMax) + "…",
	} {
		if ended[name].Reason != wanted {
			t.Errorf("%s: %q instead of %q", name, ended[name].Reason, wanted)
		}
	}
}
