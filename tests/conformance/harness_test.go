package conformance

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/miekg/dns"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
	pb "sigs.k8s.io/gateway-api/conformance/echo-basic/grpcechoserver"
	"sigs.k8s.io/gateway-api/conformance/utils/config"
	"sigs.k8s.io/gateway-api/conformance/utils/grpc"
	"sigs.k8s.io/gateway-api/conformance/utils/http"
	"sigs.k8s.io/gateway-api/conformance/utils/kubernetes"
	"sigs.k8s.io/gateway-api/conformance/utils/roundtripper"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/conformance/utils/tcp"
	"sigs.k8s.io/gateway-api/conformance/utils/udp"
)

const (
	infra = suite.InfrastructureNamespace
	app   = suite.AppBackendNamespace
	// certified is a name in the certificate of the backends with TLS.
	certified = "abc.example.com"
	// poll is how often the harness's own test looks, and patienceOfHarness how long.
	poll              = 20 * time.Millisecond
	patienceOfHarness = 20 * time.Second
)

// TestHarness shows, by the suite's own clients and without any gateway, that its backends run as its manifests say: what
// fails in TestConformance is then the relay's.
func TestHarness(t *testing.T) {
	if *relayProgram == "" {
		t.Skip("this needs a network of its own: run scripts/conformance")
	}
	machine := boot(t)
	prepare(t, machine.client)
	limits := config.DefaultTimeoutConfig()
	limits.MaxTimeToConsistency = patienceOfHarness
	authority := applyBase(t, machine, limits)
	check := checker{machine: machine, limits: limits}
	allPodsBecomeReady(t, machine)

	t.Run("HTTP by both families", check.http)
	t.Run("a log is read as the mirror tests do", check.log)
	t.Run("gRPC", check.grpc)
	t.Run("TCP in the clear and with TLS", func(t *testing.T) { check.tcp(t, authority) })
	t.Run("UDP and DNS", check.udp)
	t.Run("a slice for each Service", check.slices)
	t.Run("a Gateway reaches a pod", check.theWay)
	t.Run("what a deleted Deployment ran goes", check.deleted)
	t.Run("what the suite writes is taken", check.written)
}

type checker struct {
	machine machine
	limits  config.TimeoutConfig
}

// applyBase applies the base manifests and one with UDP, and then the Secrets that pods wait for. It gives their CA.
func applyBase(t *testing.T, machine machine, limits config.TimeoutConfig) []byte {
	applier := checker{}.applier()
	for _, manifest := range []string{"base/manifests.yaml", "tests/udproute-reference-grant.yaml"} {
		applier.MustApplyWithCleanup(t, machine.client, limits, manifest, false)
	}
	authority, certificate, key := kubernetes.MustCreateCACertConfigMap(t, infra, "tls-checks-ca-certificate")
	objects := []client.Object{authority}
	for namespace, names := range map[string][]string{
		infra: {"tls-checks-certificate", "tls-passthrough-checks-certificate"}, app: {"tls-passthrough-checks-certificate"},
	} {
		for _, name := range names {
			secret := kubernetes.MustCreateCASignedCertSecret(t, namespace, name, []string{certified}, certificate, key)
			objects = append(objects, secret)
		}
	}
	applier.MustApplyObjectsWithCleanup(t, machine.client, limits, objects, false)
	return []byte(authority.Data["ca.crt"])
}

func allPodsBecomeReady(t *testing.T, machine machine) {
	eventually(t, "every replica of every Deployment has a Pod that is ready", func(ctx context.Context) error {
		var deployments apps.DeploymentList
		if err := machine.client.List(ctx, &deployments); err != nil {
			return err
		}
		if len(deployments.Items) != 15 {
			return fmt.Errorf("%d Deployments", len(deployments.Items))
		}
		for _, deployment := range deployments.Items {
			ready := 0
			for _, pod := range podsOf(ctx, t, machine, deployment.Namespace, deployment.Spec.Selector.MatchLabels) {
				if isReady(pod) {
					ready++
				}
			}
			if ready != int(*deployment.Spec.Replicas) {
				return fmt.Errorf("%d pods of %s are ready", ready, deployment.Name)
			}
		}
		return nil
	})
}

func isReady(pod core.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == core.PodReady {
			return condition.Status == core.ConditionTrue
		}
	}
	return false
}

func podsOf(ctx context.Context, t *testing.T, machine machine, namespace string, labels map[string]string) []core.Pod {
	var pods core.PodList
	err := machine.client.List(ctx, &pods, client.InNamespace(namespace), client.MatchingLabels(labels))
	must(t, err, "the list of pods")
	return pods.Items
}

// address is that of the first pod of an app, IPv4 in family 0 and IPv6 in 1, with a port.
func (c checker) address(t *testing.T, namespace, app, port string, family int) string {
	pods := podsOf(t.Context(), t, c.machine, namespace, map[string]string{"app": app})
	if len(pods) == 0 || len(pods[0].Status.PodIPs) != 2 {
		t.Fatalf("no pod of %s with two addresses", app)
	}
	return net.JoinHostPort(pods[0].Status.PodIPs[family].IP, port)
}

func (c checker) http(t *testing.T) {
	for family := range 2 {
		c.echo(t, c.address(t, infra, "infra-backend-v1", "3000", family), "/both?families=1")
	}
}

func (c checker) echo(t *testing.T, address, path string) {
	expected := http.ExpectedResponse{Request: http.Request{Path: path}, Backend: "infra-backend-v1", Namespace: infra}
	tripper := &roundtripper.DefaultRoundTripper{TimeoutConfig: c.limits}
	http.MakeRequestAndExpectEventuallyConsistentResponse(t, tripper, c.limits, address, expected)
}

func (c checker) log(t *testing.T) {
	const path = "/mirrored?is=seen"
	c.echo(t, c.address(t, infra, "infra-backend-v1", "3000", 0), path)
	backends := []http.MirroredBackend{{BackendRef: http.BackendRef{Name: "infra-backend-v1", Namespace: infra}}}
	http.ExpectMirroredRequest(t, c.machine.client, c.machine.clientset, backends, path, c.limits)()
}

func (c checker) grpc(t *testing.T) {
	grpc.MakeRequestAndExpectEventuallyConsistentResponse(t, &grpc.DefaultClient{}, c.limits,
		c.address(t, infra, "grpc-infra-backend-v1", "3000", 0),
		grpc.ExpectedResponse{EchoRequest: &pb.EchoRequest{}, Backend: "grpc-infra-backend-v1", Namespace: infra})
}

func (c checker) tcp(t *testing.T, authority []byte) {
	plain, tls := c.address(t, infra, "tcp-backend", "3000", 0), c.address(t, infra, "tcp-backend", "8443", 0)
	tcp.MakeTCPRequestAndExpectEventuallyValidResponse(t, c.limits, plain, nil, "", false,
		tcp.ExpectedResponse{Backend: "tcp-backend", Namespace: infra})
	tcp.MakeTCPRequestAndExpectEventuallyValidResponse(t, c.limits, tls, authority, certified, true,
		tcp.ExpectedResponse{BackendIsTLS: true, Backend: "tcp-backend", Namespace: infra, Hostname: certified})
}

func (c checker) udp(t *testing.T) {
	address := c.address(t, app, "udp-echo-reference-grant", "8080", 0)
	udp.ExpectEchoResponseFromBackend(t, patienceOfHarness, address,
		udp.ExpectedResponse{Service: "udp-echo-reference-grant", Namespace: app})
	question := new(dns.Msg).SetQuestion("foo.bar.com.", dns.TypeA)
	answer, err := dns.Exchange(question, c.address(t, infra, "udp", "53", 0))
	must(t, err, "the DNS server")
	if len(answer.Answer) != 1 {
		t.Errorf("the answer: %s", answer)
	}
}

func (c checker) slices(t *testing.T) {
	eventually(t, "infra-backend-v1 has both pods and three ports", func(ctx context.Context) error {
		var slices discovery.EndpointSliceList
		of := client.MatchingLabels{discovery.LabelServiceName: "infra-backend-v1"}
		if err := c.machine.client.List(ctx, &slices, client.InNamespace(infra), of); err != nil {
			return err
		}
		if len(slices.Items) != 1 || len(slices.Items[0].Endpoints) != 2 || len(slices.Items[0].Ports) != 3 {
			return fmt.Errorf("slices: %v", slices.Items)
		}
		for _, endpoint := range slices.Items[0].Endpoints {
			if !*endpoint.Conditions.Ready {
				return fmt.Errorf("not ready: %v", endpoint)
			}
		}
		if port := slices.Items[0].Ports[1]; *port.Port != 3001 || *port.AppProtocol != "kubernetes.io/h2c" {
			return fmt.Errorf("the second port: %v", port)
		}
		return nil
	})
}

func (c checker) deleted(t *testing.T) {
	address := c.address(t, infra, "infra-backend-v3", "3000", 0)
	deployment := &apps.Deployment{ObjectMeta: meta.ObjectMeta{Namespace: infra, Name: "infra-backend-v3"}}
	must(t, c.machine.client.Delete(t.Context(), deployment), "deleting the Deployment")
	eventually(t, "no Pod, no endpoint and nobody at its address", func(ctx context.Context) error {
		if pods := podsOf(ctx, t, c.machine, infra, map[string]string{"app": "infra-backend-v3"}); len(pods) > 0 {
			return fmt.Errorf("%d pods", len(pods))
		}
		var slices discovery.EndpointSliceList
		of := client.MatchingLabels{discovery.LabelServiceName: "infra-backend-v3"}
		if err := c.machine.client.List(ctx, &slices, client.InNamespace(infra), of); err != nil {
			return err
		}
		if len(slices.Items) != 1 || len(slices.Items[0].Endpoints) > 0 {
			return fmt.Errorf("slices: %v", slices.Items)
		}
		dialer := net.Dialer{Timeout: poll}
		if connection, err := dialer.DialContext(ctx, "tcp", address); err == nil {
			_ = connection.Close()
			return fmt.Errorf("%s answers", address)
		}
		return nil
	})
}

// eventually fails the test when what is looked at does not come true.
func eventually(t *testing.T, what string, look func(context.Context) error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), poll, patienceOfHarness, true, func(ctx context.Context) (bool, error) {
		if found := look(ctx); found != nil {
			last = found
			return false, nil
		}
		return true, nil
	})
	if err != nil {
		t.Fatalf("%s: %v: %v", what, err, last)
	}
}
