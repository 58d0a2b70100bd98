// Package conformance runs the Gateway API's own conformance suite against a relay, without Kubernetes: see README.md.
package conformance

import (
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	gateway "sigs.k8s.io/gateway-api/apis/v1"
	upstream "sigs.k8s.io/gateway-api/conformance"
	reports "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/config"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
	"sigs.k8s.io/yaml"

	"underpass.dev/tests/conformance/internal/lab"
)

var (
	relayProgram = flag.String("lab.relay", "", "the relay's program")
	echoProgram  = flag.String("lab.echo", "", "the suite's echo-basic")
	dnsProgram   = flag.String("lab.dns", "", "the DNS server of cmd/dns")
	output       = flag.String("lab.output", "", "an empty folder for logs, what failed and the report")
	only         = flag.String("lab.only", "", "run the tests whose names match this regular expression")
	patience     = flag.Duration("lab.patience", 0, "the longest that the suite waits for one thing, if that is less than its own time-out")
)

// profiles are those that a gateway can have.
var profiles = []suite.ConformanceProfileName{
	suite.GatewayHTTPConformanceProfileName, suite.GatewayGRPCConformanceProfileName, suite.GatewayTLSConformanceProfileName,
	suite.GatewayTCPConformanceProfileName, suite.GatewayUDPConformanceProfileName,
}

func TestConformance(t *testing.T) {
	if *relayProgram == "" {
		t.Skip("this needs a network of its own: run scripts/conformance")
	}
	chosen := chooseTests(t)
	machine := boot(t)
	prepare(t, machine.client)
	started, err := suite.NewConformanceTestSuite(suite.ConformanceOptions{
		ConfigurableOptions: options(t), Client: machine.client, Clientset: machine.clientset, RestConfig: machine.access,
		ManifestFS: []fs.FS{&upstream.Manifests},
	})
	must(t, err, "the suite")
	for i := range chosen {
		chosen[i] = observed(chosen[i], machine.relay)
	}
	// A test of its own: what the base manifests want and the relay has not yet fails here, and the others still say what
	// they find.
	t.Run("Setup", func(t *testing.T) { started.Setup(t, chosen) })
	must(t, started.Run(t, chosen), "the run")
	report, err := started.Report()
	must(t, err, "the report")
	writeReport(t, report)
}

// chooseTests are the tests of gateways, one after the other. Version 1.6.1 reports what is still to run in parallel as
// passed, so that nothing does.
func chooseTests(t *testing.T) []suite.ConformanceTest {
	expression, err := regexp.Compile(*only)
	must(t, err, "-lab.only")
	claimed := claimedFeatures()
	var chosen []suite.ConformanceTest
	for _, test := range tests.ConformanceTests {
		if expression.MatchString(test.ShortName) && !slices.Contains(test.Features, features.SupportMesh) {
			for _, feature := range test.Features {
				if !slices.Contains(claimed, feature) {
					t.Fatalf("%s needs feature %s, which is not claimed", test.ShortName, feature)
				}
			}
			test.Parallel = false
			chosen = append(chosen, test)
		}
	}
	if len(chosen) == 0 {
		t.Fatalf("no test's name matches %q", *only)
	}
	slices.SortFunc(chosen, func(a, b suite.ConformanceTest) int { return strings.Compare(a.ShortName, b.ShortName) })
	return chosen
}

// claimedFeatures are all that the Gateway API has for gateways.
func claimedFeatures() []features.FeatureName {
	mesh := features.SetsToNamesSet(features.MeshCoreFeatures, features.MeshExtendedFeatures)
	all := features.SetsToNamesSet(features.AllFeatures).Difference(mesh).UnsortedList()
	slices.Sort(all)
	return all
}

func options(t *testing.T) suite.ConfigurableOptions {
	version, err := exec.Command(*relayProgram, "--version").Output()
	must(t, err, "the relay's version")
	_, number, _ := strings.Cut(strings.TrimSpace(string(version)), " ")
	ip := gateway.IPAddressType
	return suite.ConfigurableOptions{
		GatewayClassName: className,
		// The whole store goes at the end.
		CleanupBaseResources:     false,
		CleanupTestResources:     true,
		SupportedFeatures:        claimedFeatures(),
		ConformanceProfiles:      profiles,
		TimeoutConfig:            timeouts(),
		UsableNetworkAddresses:   []gateway.GatewaySpecAddress{{Type: &ip, Value: lab.UsableAddress.String()}},
		UnusableNetworkAddresses: []gateway.GatewaySpecAddress{{Type: &ip, Value: lab.UnusableAddress.String()}},
		Implementation: reports.Implementation{
			Organization: "Underpass", Project: "underpass", URL: "https://underpass.dev", Version: "v" + number,
			Contact: []string{"https://underpass.dev"},
		},
	}
}

// timeouts are the suite's own, or no longer than -lab.patience.
func timeouts() config.TimeoutConfig {
	all := config.DefaultTimeoutConfig()
	if *patience == 0 {
		return all
	}
	for _, each := range []*time.Duration{
		&all.CreateTimeout, &all.DeleteTimeout, &all.GetTimeout, &all.GatewayMustHaveAddress, &all.GatewayMustHaveCondition,
		&all.GatewayStatusMustHaveListeners, &all.GatewayListenersMustHaveConditions, &all.ListenerSetMustHaveCondition,
		&all.ListenerSetListenersMustHaveConditions, &all.GWCMustBeAccepted, &all.HTTPRouteMustNotHaveParents,
		&all.HTTPRouteMustHaveCondition, &all.TLSRouteMustHaveCondition, &all.TCPRouteMustHaveCondition,
		&all.UDPRouteMustHaveCondition, &all.RouteMustHaveParents, &all.MaxTimeToConsistency, &all.NamespacesMustBeReady,
		&all.RequestTimeout, &all.LatestObservedGenerationSet, &all.DefaultTestTimeout,
	} {
		*each = min(*each, *patience)
	}
	return all
}

func writeReport(t *testing.T, report *reports.ConformanceReport) {
	// The suite's order is another each time.
	slices.SortFunc(report.ProfileReports, func(a, b reports.ProfileReport) int { return strings.Compare(a.Name, b.Name) })
	text, err := yaml.Marshal(report)
	must(t, err, "the report")
	must(t, os.WriteFile(filepath.Join(*output, "report.yaml"), text, 0o644), "the report")
}
