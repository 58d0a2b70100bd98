package conformance

import (
	"context"
	"flag"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	core "k8s.io/api/core/v1"
	extensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/apis/v1alpha2"
	"sigs.k8s.io/gateway-api/apis/v1alpha3"

	"underpass.dev/tests/conformance/internal/cluster"
	"underpass.dev/tests/conformance/internal/lab"
)

const (
	className      = "conformance"
	controllerName = "gateway.apoxy.dev/gatewayclass-controller"
	bootPatience   = 30 * time.Second
)

// machine is a relay in a network of its own, with what runs the Deployments that are stored in it.
type machine struct {
	relay     *lab.Relay
	access    *rest.Config
	client    client.Client
	clientset *kubernetes.Clientset
}

// boot starts a machine, which stops with the test.
func boot(t *testing.T) machine {
	ctrllog.SetLogger(logr.Discard())
	register(t)
	network, err := lab.Raise()
	must(t, err, "the network")
	relay, err := lab.StartRelay(*relayProgram, *output)
	must(t, err, "the relay")
	t.Cleanup(func() {
		if err := relay.Stop(); err != nil {
			t.Errorf("stopping the relay: %v", err)
		}
		t.Logf("the relay used %s of processor time", relay.ProcessorTime())
	})
	access, err := relay.Config()
	must(t, err, "the relay's kubeconfig")
	direct, err := client.New(access, client.Options{})
	must(t, err, "a client")
	clientset, err := kubernetes.NewForConfig(access)
	must(t, err, "a clientset")
	ctx, cancel := context.WithCancel(t.Context())
	runs, err := cluster.Start(ctx, cluster.Options{
		Config: rest.CopyConfig(access), Network: network, Echo: *echoProgram, DNS: *dnsProgram, Folder: *output, Say: say,
	})
	if err != nil {
		cancel()
	}
	must(t, err, "the cluster")
	t.Cleanup(func() { cancel(); runs.Wait() })
	return machine{relay: relay, access: access, client: direct, clientset: clientset}
}

// register tells client-go's scheme of the kinds that the suite sends typed.
func register(t *testing.T) {
	for _, add := range []func(*runtime.Scheme) error{
		gateway.Install, v1alpha2.Install, v1alpha3.Install, extensions.AddToScheme,
	} {
		must(t, add(scheme.Scheme), "the scheme")
	}
}

// prepare makes the suite's class, and gives the Gateway that every relay has to a class that nobody serves, because it
// listens on the same address.
func prepare(t *testing.T, direct client.Client) {
	ctx, cancel := context.WithTimeout(t.Context(), bootPatience)
	defer cancel()
	first := &gateway.Gateway{ObjectMeta: meta.ObjectMeta{Namespace: core.NamespaceDefault, Name: "default"}}
	away := client.RawPatch(types.MergePatchType, []byte(`{"spec":{"gatewayClassName":"nobody"}}`))
	must(t, direct.Patch(ctx, first, away), "the first Gateway")
	class := &gateway.GatewayClass{
		ObjectMeta: meta.ObjectMeta{Name: className},
		Spec:       gateway.GatewayClassSpec{ControllerName: controllerName},
	}
	must(t, direct.Create(ctx, class), "the GatewayClass")
}

// TestMain ends the run at a signal: the test program is the first process of its own process namespace, where a signal
// that nobody asked for is ignored.
func TestMain(m *testing.M) {
	flag.Parse()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-stop
		say("stopped")
		os.Exit(1)
	}()
	os.Exit(m.Run())
}

func must(t *testing.T, err error, what string) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
