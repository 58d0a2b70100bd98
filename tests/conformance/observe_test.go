package conformance

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/yaml"

	"underpass.dev/tests/conformance/internal/lab"
)

// shown are the kinds whose objects are kept when a test fails.
var shown = []schema.GroupVersionKind{
	gateway.SchemeGroupVersion.WithKind("GatewayClass"), gateway.SchemeGroupVersion.WithKind("Gateway"),
	gateway.SchemeGroupVersion.WithKind("ListenerSet"), gateway.SchemeGroupVersion.WithKind("HTTPRoute"),
	gateway.SchemeGroupVersion.WithKind("GRPCRoute"), gateway.SchemeGroupVersion.WithKind("TLSRoute"),
	gateway.SchemeGroupVersion.WithKind("TCPRoute"), gateway.SchemeGroupVersion.WithKind("UDPRoute"),
	gateway.SchemeGroupVersion.WithKind("BackendTLSPolicy"), gateway.SchemeGroupVersion.WithKind("ReferenceGrant"),
	{Version: "v1", Kind: "Service"}, {Group: "discovery.k8s.io", Version: "v1", Kind: "EndpointSlice"},
}

// observed is the test, and on failure what was stored at its end and what the relay said meanwhile, before the test's
// objects are deleted.
func observed(test suite.ConformanceTest, relay *lab.Relay) suite.ConformanceTest {
	inner, name := test.Test, test.ShortName
	test.Test = func(t *testing.T, s *suite.ConformanceTestSuite) {
		must(t, relay.Alive(), "the relay")
		from := relay.LogSize()
		t.Cleanup(func() {
			if t.Failed() {
				keep(t, name+".relay.log", relay.LogSince(from))
				keep(t, name+".yaml", stored(s.Client))
			}
		})
		inner(t, s)
	}
	return test
}

func keep(t *testing.T, name string, text []byte) {
	if err := os.WriteFile(filepath.Join(*output, name), text, 0o644); err != nil {
		t.Errorf("keeping %s: %v", name, err)
	}
}

// stored is every object of the shown kinds as YAML, without what is only noise to a reader.
func stored(from client.Client) []byte {
	ctx, cancel := context.WithTimeout(context.Background(), bootPatience)
	defer cancel()
	var text []byte
	for _, kind := range shown {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(kind)
		if err := from.List(ctx, list); err != nil {
			text = fmt.Appendf(text, "--- # %s: %v\n", kind.Kind, err)
			continue
		}
		for _, object := range list.Items {
			object.SetManagedFields(nil)
			document, err := yaml.Marshal(object.Object)
			if err != nil {
				document = fmt.Appendf(nil, "# %v\n", err)
			}
			text = fmt.Appendf(text, "---\n%s", document)
		}
	}
	return text
}

// say is for what belongs to no test. It stands on lines of its own, which the results leave alone.
func say(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", arguments...)
}
