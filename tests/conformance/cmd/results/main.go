// Command results reads the events of the suite's run (test2json) and prints one line for each test, what did not pass
// again at the end, and the figures by profile. It fails unless everything passed. Each test's own words go to NAME.log in
// the folder that is its argument, where report.yaml is, too.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	reports "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/yaml"

	"underpass.dev/tests/conformance/internal/results"
)

// lineMax is more than test2json makes of one line of output.
const lineMax = 64 << 20

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: results FOLDER <EVENTS")
		os.Exit(2)
	}
	good, err := run(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "results:", err)
	}
	if err != nil || !good {
		os.Exit(1)
	}
}

func run(folder string) (bool, error) {
	begin := time.Now()
	reader := results.NewReader()
	count := map[results.Outcome]int{}
	tell := func(result results.Result) error {
		count[result.Outcome]++
		fmt.Println(result.Line())
		return os.WriteFile(filepath.Join(folder, result.Name+".log"), []byte(result.Log), 0o644)
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, lineMax)
	for lines.Scan() {
		var event results.Event
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			return false, fmt.Errorf("%w: %s", err, lines.Text())
		}
		if result := reader.Take(event); result != nil {
			if err := tell(*result); err != nil {
				return false, err
			}
		}
	}
	if err := lines.Err(); err != nil {
		return false, err
	}
	rest, said := reader.Rest()
	for _, result := range rest {
		if err := tell(result); err != nil {
			return false, err
		}
	}
	if err := os.WriteFile(filepath.Join(folder, "run.log"), []byte(said), 0o644); err != nil {
		return false, err
	}
	good := reader.RootPassed && count[results.Passed] > 0 && len(count) == 1
	if !good && len(count) == 0 {
		fmt.Print(said)
	}
	profiles, err := table(filepath.Join(folder, "report.yaml"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "results: no report:", err)
	}
	fmt.Printf("\n%s\n%d passed, %d failed, %d skipped in %.0f s\n", profiles, count[results.Passed],
		count[results.Failed]+count[results.Broken], count[results.Skipped], time.Since(begin).Seconds())
	return good && err == nil, nil
}

// table is the report's figures.
func table(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var report reports.ConformanceReport
	if err := yaml.Unmarshal(text, &report); err != nil {
		return "", err
	}
	lines := fmt.Sprintf("%-14s %22s %25s\n", "", "core", "extended")
	lines += fmt.Sprintf("%-14s %8s %6s %7s %8s %6s %7s\n", "profile", "passed", "failed", "skipped", "passed", "failed", "skipped")
	for _, profile := range report.ProfileReports {
		core, extended := profile.Core.Statistics, reports.Statistics{}
		if profile.Extended != nil {
			extended = profile.Extended.Statistics
		}
		lines += fmt.Sprintf("%-14s %8d %6d %7d %8d %6d %7d\n", profile.Name,
			core.Passed, core.Failed, core.Skipped, extended.Passed, extended.Failed, extended.Skipped)
	}
	return lines + fmt.Sprintf("%d provisional tests passed", len(report.SucceededProvisionalTests)), nil
}
