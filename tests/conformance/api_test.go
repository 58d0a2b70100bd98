package conformance

import (
	"context"
	"io/fs"
	"net"
	"testing"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	upstream "sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/utils/http"
	"sigs.k8s.io/gateway-api/conformance/utils/kubernetes"
	"sigs.k8s.io/gateway-api/conformance/utils/roundtripper"

	"underpass.dev/tests/conformance/internal/lab"
)

// theWay shows that the relay's Gateways are reached and reach pods: by a Backend with a pod's address, which needs nothing
// of what the suite tests but a match of all paths.
func (c checker) theWay(t *testing.T) {
	host, _, err := net.SplitHostPort(c.address(t, infra, "infra-backend-v2", "3000", 0))
	must(t, err, "a pod's address")
	backend := &unstructured.Unstructured{Object: map[string]any{
		"spec": map[string]any{"endpoints": []any{map[string]any{"ip": host}}},
	}}
	backend.SetGroupVersionKind(schema.GroupVersionKind{Group: "core.apoxy.dev", Version: "v1alpha2", Kind: "Backend"})
	backend.SetNamespace(infra)
	backend.SetName("pod")
	group, kind, port := gateway.Group("core.apoxy.dev"), gateway.Kind("Backend"), gateway.PortNumber(3000)
	object := gateway.BackendObjectReference{Group: &group, Kind: &kind, Name: "pod", Port: &port}
	route := &gateway.HTTPRoute{
		ObjectMeta: meta.ObjectMeta{Namespace: infra, Name: "pod"},
		Spec: gateway.HTTPRouteSpec{
			CommonRouteSpec: gateway.CommonRouteSpec{ParentRefs: []gateway.ParentReference{{Name: "same-namespace"}}},
			Rules: []gateway.HTTPRouteRule{{
				BackendRefs: []gateway.HTTPBackendRef{{BackendRef: gateway.BackendRef{BackendObjectReference: object}}},
			}},
		},
	}
	for _, each := range []client.Object{backend, route} {
		must(t, c.machine.client.Create(t.Context(), each), "creating what leads to the pod")
		t.Cleanup(func() { must(t, c.machine.client.Delete(context.Background(), each), "deleting it") })
	}
	parent := kubernetes.NewGatewayRef(client.ObjectKey{Namespace: infra, Name: "same-namespace"})
	address, err := kubernetes.WaitForGatewayAddress(t, c.machine.client, c.limits, parent)
	must(t, err, "the Gateway's address")
	expected := http.ExpectedResponse{Request: http.Request{Path: "/way"}, Backend: "infra-backend-v2", Namespace: infra}
	tripper := &roundtripper.DefaultRoundTripper{TimeoutConfig: c.limits}
	http.MakeRequestAndExpectEventuallyConsistentResponse(t, tripper, c.limits, address, expected)
}

// written does to the API what the suite's rarer tests do, with the manifest of one of them.
func (c checker) written(t *testing.T) {
	c.applier().MustApplyWithCleanup(t, c.machine.client, c.limits, "tests/httproute-service-types.yaml", true)
	t.Run("put back unchanged", c.putBack)
	t.Run("a slice is patched", c.patchSlice)
	t.Run("a ConfigMap is patched", c.patchConfigMap)
}

// putBack is what applying a manifest again is: the generation stays. The relay writes the status meanwhile.
func (c checker) putBack(t *testing.T) {
	key := client.ObjectKey{Namespace: infra, Name: "service-types"}
	before, route := &unstructured.Unstructured{}, &unstructured.Unstructured{}
	for _, object := range []*unstructured.Unstructured{before, route} {
		object.SetGroupVersionKind(gateway.SchemeGroupVersion.WithKind("HTTPRoute"))
	}
	must(t, c.machine.client.Get(t.Context(), key, before), "the route")
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		if err := c.machine.client.Get(t.Context(), key, route); err != nil {
			return err
		}
		return c.machine.client.Update(t.Context(), route)
	})
	must(t, err, "putting it back")
	if before.GetGeneration() != 1 || route.GetGeneration() != 1 {
		t.Errorf("from generation %d to %d", before.GetGeneration(), route.GetGeneration())
	}
}

func (c checker) applier() kubernetes.Applier {
	kind := gateway.IPAddressType
	return kubernetes.Applier{
		GatewayClass: className, ControllerName: controllerName, ManifestFS: []fs.FS{&upstream.Manifests},
		UsableNetworkAddresses:   []gateway.GatewaySpecAddress{{Type: &kind, Value: lab.UsableAddress.String()}},
		UnusableNetworkAddresses: []gateway.GatewaySpecAddress{{Type: &kind, Value: lab.UnusableAddress.String()}},
	}
}

// patchSlice does what HTTPRouteServiceTypes does.
func (c checker) patchSlice(t *testing.T) {
	key := client.ObjectKey{Namespace: infra, Name: "manual-endpointslices-ip6"}
	var slice discovery.EndpointSlice
	must(t, c.machine.client.Get(t.Context(), key, &slice), "the slice")
	patch := client.MergeFrom(slice.DeepCopy())
	slice.Endpoints = []discovery.Endpoint{{Addresses: []string{"fd00:97::2"}, NodeName: new("conformance")}}
	must(t, c.machine.client.Patch(t.Context(), &slice, patch), "the patch")
	var stored discovery.EndpointSlice
	must(t, c.machine.client.Get(t.Context(), key, &stored), "the slice after it")
	if len(stored.Endpoints) != 1 || stored.Endpoints[0].Addresses[0] != "fd00:97::2" {
		t.Errorf("endpoints: %v", stored.Endpoints)
	}
}

// patchConfigMap does what BackendTLSPolicy does: a key's value is broken, emptied and taken out.
func (c checker) patchConfigMap(t *testing.T) {
	key := client.ObjectKey{Namespace: infra, Name: "tls-checks-ca-certificate"}
	for _, data := range []map[string]string{{"ca.crt": "broken"}, {"ca.crt": ""}, {}, {"ca.crt": "again"}} {
		var configMap core.ConfigMap
		must(t, c.machine.client.Get(t.Context(), key, &configMap), "the ConfigMap")
		patch := client.MergeFrom(configMap.DeepCopy())
		configMap.Data = data
		must(t, c.machine.client.Patch(t.Context(), &configMap, patch), "the patch")
		var stored core.ConfigMap
		must(t, c.machine.client.Get(t.Context(), key, &stored), "the ConfigMap after it")
		wanted, is := data["ca.crt"]
		if found, has := stored.Data["ca.crt"]; has != is || found != wanted {
			t.Errorf("%v after patching to %v", stored.Data, data)
		}
	}
}
