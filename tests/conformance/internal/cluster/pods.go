package cluster

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	kerrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"underpass.dev/tests/conformance/internal/lab"
)

// replicasMax bounds what a manifest can ask of this machine.
const replicasMax = 10

// pod is a Pod that is stored, and what runs for it.
type pod struct {
	object *core.Pod
	// folder has its volumes.
	folder  string
	network *lab.PodNetwork
	process *process
	// stored tells whether the API has the status of this state.
	stored bool
	state  state
}

// state is where a pod is in its life.
type state int

const (
	// waiting for its volumes.
	waiting state = iota
	starting
	ready
	// failed processes are not started again: a backend that ends is a defect of the harness.
	failed
)

// createPods stores a Pod for each replica of each Deployment that has none. What a deleted Deployment leaves goes by its
// owner reference.
func (c *Cluster) createPods(ctx context.Context) error {
	deployments, err := c.deployments.List(labels.Everything())
	if err != nil {
		return err
	}
	slices.SortFunc(deployments, func(a, b *apps.Deployment) int { return compare(a, b) })
	var problems problems
	for _, deployment := range deployments {
		have := 0
		for _, found := range c.pods {
			if meta.IsControlledBy(found.object, deployment) {
				have++
			}
		}
		for ; deployment.DeletionTimestamp == nil && have < replicas(deployment); have++ {
			problems.add(c.createPod(ctx, deployment))
		}
	}
	return problems.joined()
}

func replicas(deployment *apps.Deployment) int {
	if deployment.Spec.Replicas == nil {
		return 1
	}
	return min(int(*deployment.Spec.Replicas), replicasMax)
}

func (c *Cluster) createPod(ctx context.Context, deployment *apps.Deployment) error {
	wanted := &core.Pod{
		ObjectMeta: meta.ObjectMeta{
			Name:            podName(deployment),
			Namespace:       deployment.Namespace,
			Labels:          deployment.Spec.Template.Labels,
			Annotations:     deployment.Spec.Template.Annotations,
			OwnerReferences: []meta.OwnerReference{*meta.NewControllerRef(deployment, apps.SchemeGroupVersion.WithKind("Deployment"))},
		},
		Spec: *deployment.Spec.Template.Spec.DeepCopy(),
	}
	wanted.Spec.NodeName = nodeName
	ctx, cancel := call(ctx)
	defer cancel()
	stored, err := c.client.CoreV1().Pods(wanted.Namespace).Create(ctx, wanted, meta.CreateOptions{})
	if kerrors.IsNotFound(err) || kerrors.HasStatusCause(err, core.NamespaceTerminatingCause) {
		// The namespace goes, and the Deployment with it.
		return nil
	}
	if err != nil {
		return fmt.Errorf("Pod of Deployment %s/%s: %w", deployment.Namespace, deployment.Name, err)
	}
	folder := filepath.Join(c.Folder, "pods", stored.Namespace, stored.Name)
	c.pods[stored.UID] = &pod{object: stored, folder: folder}
	return nil
}

// podName is shaped like Kubernetes', because the suite takes the last two parts off.
func podName(deployment *apps.Deployment) string {
	const letters = "bcdfghjklmnpqrstvwxz2456789"
	hash := fnv.New32a()
	fmt.Fprint(hash, deployment.UID)
	suffix := make([]byte, 5)
	for i := range suffix {
		suffix[i] = letters[rand.IntN(len(letters))]
	}
	return fmt.Sprintf("%s-%08x-%s", deployment.Name, hash.Sum32(), suffix)
}

// advance does what can be done now for the pod, and stores what it has come to.
func (p *pod) advance(ctx context.Context, c *Cluster) error {
	if p.state == waiting {
		if err := p.start(c); err != nil {
			return fmt.Errorf("Pod %s/%s: %w", p.object.Namespace, p.object.Name, err)
		}
	}
	if p.process != nil {
		now := p.process.state()
		p.stored = p.stored && now == p.state
		p.state = now
	}
	if p.stored || p.state == waiting {
		return nil
	}
	return p.store(ctx, c)
}

// start runs the pod's container when its volumes are there, and does nothing when they are not yet.
func (p *pod) start(c *Cluster) error {
	if len(p.object.Spec.Containers) != 1 {
		return fmt.Errorf("%d containers: the suite's pods have one", len(p.object.Spec.Containers))
	}
	complete, err := p.mount(c)
	if err != nil || !complete {
		return err
	}
	if p.network == nil {
		network, err := c.Network.Pod()
		if err != nil {
			return err
		}
		p.network = &network
	}
	p.process, err = p.launch(c)
	if err == nil {
		p.state = starting
	}
	return err
}

// mount writes the volumes' files. It is complete when every Secret and ConfigMap is there.
func (p *pod) mount(c *Cluster) (bool, error) {
	if err := os.MkdirAll(p.folder, 0o755); err != nil {
		return false, err
	}
	for _, volume := range p.object.Spec.Volumes {
		data, items, err := c.volume(p.object.Namespace, volume)
		if kerrors.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if err := writeVolume(filepath.Join(p.folder, volume.Name), data, items); err != nil {
			return false, err
		}
	}
	return true, nil
}

// store writes the status that follows from the state.
func (p *pod) store(ctx context.Context, c *Cluster) error {
	ctx, cancel := call(ctx)
	defer cancel()
	wanted := p.object.DeepCopy()
	wanted.Status = p.status()
	pods := c.client.CoreV1().Pods(wanted.Namespace)
	stored, err := pods.UpdateStatus(ctx, wanted, meta.UpdateOptions{})
	if kerrors.IsConflict(err) {
		if stored, err = pods.Get(ctx, wanted.Name, meta.GetOptions{}); err == nil && stored.UID == wanted.UID {
			wanted.ResourceVersion = stored.ResourceVersion
			stored, err = pods.UpdateStatus(ctx, wanted, meta.UpdateOptions{})
		}
	}
	if kerrors.IsNotFound(err) {
		// The watch will say so.
		return nil
	}
	if err != nil {
		return fmt.Errorf("status of Pod %s/%s: %w", wanted.Namespace, wanted.Name, err)
	}
	p.object, p.stored = stored, true
	return nil
}

func (p *pod) status() core.PodStatus {
	now := meta.Now()
	isReady, phase := core.ConditionFalse, core.PodRunning
	switch p.state {
	case ready:
		isReady = core.ConditionTrue
	case failed:
		phase = core.PodFailed
	}
	status := core.PodStatus{Phase: phase, StartTime: &now}
	for _, kind := range []core.PodConditionType{core.PodScheduled, core.PodInitialized, core.ContainersReady, core.PodReady} {
		value := core.ConditionTrue
		if kind == core.ContainersReady || kind == core.PodReady {
			value = isReady
		}
		status.Conditions = append(status.Conditions, core.PodCondition{Type: kind, Status: value, LastTransitionTime: now})
	}
	if p.network != nil {
		status.PodIP = p.network.IPv4.String()
		status.PodIPs = []core.PodIP{{IP: p.network.IPv4.String()}, {IP: p.network.IPv6.String()}}
	}
	return status
}

// stop ends what runs. The logs stay.
func (p *pod) stop(c *Cluster) {
	if p.process != nil {
		p.process.stop()
	}
	if p.network != nil {
		if err := c.Network.Remove(*p.network); err != nil {
			c.Say("cluster: %v", err)
		}
	}
	p.process, p.network = nil, nil
}
