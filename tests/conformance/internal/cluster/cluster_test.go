package cluster

import (
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"underpass.dev/tests/conformance/internal/lab"
)

func TestPodNamesEndInTwoPartsThatTheSuiteTakesOff(t *testing.T) {
	deployment := &apps.Deployment{ObjectMeta: meta.ObjectMeta{Name: "infra-backend-v1", UID: "u"}}
	shape := regexp.MustCompile(`^infra-backend-v1-[0-9a-f]{8}-[a-z0-9]{5}$`)
	first, second := podName(deployment), podName(deployment)
	if !shape.MatchString(first) || first == second {
		t.Errorf("%s and %s", first, second)
	}
}

func TestListenersAreFoundByPortAndState(t *testing.T) {
	table := `  sl  local_address rem_address   st tx_queue rx_queue
   0: 00000000:0BB8 00000000:0000 0A 00000000:00000000
   1: 0100007F:0BB9 0100007F:1F90 01 00000000:00000000
`
	for port, wanted := range map[uint16]bool{3000: true, 3001: false, 8080: false} {
		if hasListener(table, listening{"tcp", port}) != wanted {
			t.Errorf("port %d is listened on: want %t", port, wanted)
		}
	}
	if hasListener(table, listening{"udp", 3000}) {
		t.Error("a TCP state is not UDP's")
	}
}

func TestVolumesHoldTheirItemsAndNothingOutsideOfThem(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "volume")
	data := map[string][]byte{"tls.crt": []byte("c"), "tls.key": []byte("k")}
	if err := writeVolume(folder, data, []core.KeyToPath{{Key: "tls.crt", Path: "deep/crt"}}); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(folder, "deep", "crt")); err != nil || string(text) != "c" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := os.Stat(filepath.Join(folder, "tls.key")); err == nil {
		t.Error("a key that no item names is no file")
	}
	if writeVolume(folder, data, []core.KeyToPath{{Key: "tls.crt", Path: "../out"}}) == nil {
		t.Error("a path may not lead out of the volume")
	}
	if writeVolume(folder, data, []core.KeyToPath{{Key: "none", Path: "none"}}) == nil {
		t.Error("a key that is not there is an error")
	}
	if err := writeVolume(folder, data, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(folder, "tls.key")); err != nil {
		t.Error("without items every key is a file")
	}
}

// backend is a pod with one address and the labels app=NAME.
func backend(name string, state state) *pod {
	address := netip.MustParseAddr("10.97.0.2")
	return &pod{
		object: &core.Pod{
			ObjectMeta: meta.ObjectMeta{Namespace: "n", Name: name, UID: types.UID(name), Labels: map[string]string{"app": name}},
			Spec:       core.PodSpec{Containers: []core.Container{{Ports: []core.ContainerPort{{Name: "web", ContainerPort: 3000}}}}},
		},
		network: &lab.PodNetwork{IPv4: address, IPv6: address},
		state:   state,
	}
}

func TestASliceHasTheServicesPodsAndTheirPorts(t *testing.T) {
	cluster := &Cluster{pods: map[types.UID]*pod{}}
	for _, each := range []*pod{backend("a", ready), backend("b", ready)} {
		cluster.pods[each.object.UID] = each
	}
	service := &core.Service{
		ObjectMeta: meta.ObjectMeta{Namespace: "n", Name: "s"},
		Spec: core.ServiceSpec{
			Selector: map[string]string{"app": "a"},
			Ports: []core.ServicePort{
				{Name: "named", Port: 80, TargetPort: intstr.FromString("web")},
				{Name: "number", Port: 81, TargetPort: intstr.FromInt32(3001)},
				{Name: "same", Port: 82},
			},
		},
	}
	slice := cluster.slice(service)
	if len(slice.Endpoints) != 1 || slice.Endpoints[0].TargetRef.Name != "a" || !*slice.Endpoints[0].Conditions.Ready {
		t.Errorf("endpoints: %+v", slice.Endpoints)
	}
	var ports []int32
	for _, port := range slice.Ports {
		ports = append(ports, *port.Port)
	}
	if !slices.Equal(ports, []int32{3000, 3001, 82}) {
		t.Errorf("ports: %v", ports)
	}
	cluster.pods["a"].state = starting
	if *cluster.slice(service).Endpoints[0].Conditions.Ready {
		t.Error("a pod that starts is not ready")
	}
}

func TestAPodIsReadyOnlyWhenItListens(t *testing.T) {
	for now, wanted := range map[state]core.ConditionStatus{
		starting: core.ConditionFalse, ready: core.ConditionTrue, failed: core.ConditionFalse,
	} {
		status := backend("a", now).status()
		index := slices.IndexFunc(status.Conditions, func(c core.PodCondition) bool { return c.Type == core.PodReady })
		if status.Conditions[index].Status != wanted {
			t.Errorf("state %d: Ready is %s", now, status.Conditions[index].Status)
		}
	}
}

func TestMountedPathsInTheEnvironmentLeadToTheVolumes(t *testing.T) {
	found := backend("a", waiting)
	found.folder = "f"
	container := core.Container{
		Env: []core.EnvVar{
			{Name: "TLS_SERVER_CERT", Value: "/etc/secret-volume/crt"},
			{Name: "NEAR", Value: "/etc/secret-volume-2/crt"},
			{Name: "POD_NAME", ValueFrom: &core.EnvVarSource{FieldRef: &core.ObjectFieldSelector{FieldPath: "metadata.name"}}},
		},
		VolumeMounts: []core.VolumeMount{{Name: "secrets", MountPath: "/etc/secret-volume"}},
	}
	wanted := []string{"TLS_SERVER_CERT=f/secrets/crt", "NEAR=/etc/secret-volume-2/crt", "POD_NAME=a"}
	if got := found.environment(container); !slices.Equal(got, wanted) {
		t.Errorf("%q", got)
	}
}
