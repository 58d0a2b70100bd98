package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	kerrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// manager says in a slice's label whose it is.
const manager = "conformance"

// publishServices keeps one EndpointSlice for each Service with a selector. Like a cluster's default, Services are IPv4.
func (c *Cluster) publishServices(ctx context.Context) error {
	services, err := c.services.List(labels.Everything())
	if err != nil {
		return err
	}
	slices.SortFunc(services, func(a, b *core.Service) int { return compare(a, b) })
	var problems problems
	there := map[types.UID]string{}
	for _, service := range services {
		if len(service.Spec.Selector) == 0 || service.DeletionTimestamp != nil {
			continue
		}
		wanted := c.slice(service)
		content, err := json.Marshal(wanted)
		if err == nil && c.slices[service.UID] != string(content) {
			err = c.publish(ctx, wanted)
		}
		if err != nil {
			problems.add(fmt.Errorf("EndpointSlice of Service %s/%s: %w", service.Namespace, service.Name, err))
			continue
		}
		there[service.UID] = string(content)
	}
	c.slices = there
	return problems.joined()
}

// slice is what a Service's endpoints are now.
func (c *Cluster) slice(service *core.Service) *discovery.EndpointSlice {
	hash := fnv.New32a()
	fmt.Fprint(hash, service.UID)
	wanted := &discovery.EndpointSlice{
		ObjectMeta: meta.ObjectMeta{
			Name:            fmt.Sprintf("%s-%08x", service.Name, hash.Sum32()),
			Namespace:       service.Namespace,
			Labels:          map[string]string{discovery.LabelServiceName: service.Name, discovery.LabelManagedBy: manager},
			OwnerReferences: []meta.OwnerReference{*meta.NewControllerRef(service, core.SchemeGroupVersion.WithKind("Service"))},
		},
		AddressType: discovery.AddressTypeIPv4,
		Endpoints:   []discovery.Endpoint{},
	}
	selector := labels.SelectorFromSet(service.Spec.Selector)
	var chosen []*pod
	for _, found := range c.ordered() {
		if found.object.Namespace == service.Namespace && selector.Matches(labels.Set(found.object.Labels)) {
			chosen = append(chosen, found)
		}
	}
	for _, found := range chosen {
		if found.network != nil {
			wanted.Endpoints = append(wanted.Endpoints, found.endpoint())
		}
	}
	for _, port := range service.Spec.Ports {
		number := targetPort(port, chosen)
		wanted.Ports = append(wanted.Ports, discovery.EndpointPort{
			Name: new(port.Name), Protocol: new(port.Protocol), Port: &number, AppProtocol: port.AppProtocol,
		})
	}
	return wanted
}

func (p *pod) endpoint() discovery.Endpoint {
	isReady := p.state == ready
	return discovery.Endpoint{
		Addresses:  []string{p.network.IPv4.String()},
		Conditions: discovery.EndpointConditions{Ready: new(isReady), Serving: new(isReady), Terminating: new(false)},
		NodeName:   new(nodeName),
		TargetRef:  &core.ObjectReference{Kind: "Pod", Namespace: p.object.Namespace, Name: p.object.Name, UID: p.object.UID},
	}
}

// targetPort is the port of the pods: a number, or the name of a container's port; without either it is the Service's.
func targetPort(port core.ServicePort, pods []*pod) int32 {
	if port.TargetPort.Type == intstr.String {
		for _, found := range pods {
			for _, declared := range found.object.Spec.Containers[0].Ports {
				if declared.Name == port.TargetPort.StrVal {
					return declared.ContainerPort
				}
			}
		}
	}
	if port.TargetPort.IntVal != 0 {
		return port.TargetPort.IntVal
	}
	return port.Port
}

func (c *Cluster) publish(ctx context.Context, wanted *discovery.EndpointSlice) error {
	ctx, cancel := call(ctx)
	defer cancel()
	all := c.client.DiscoveryV1().EndpointSlices(wanted.Namespace)
	_, err := all.Create(ctx, wanted, meta.CreateOptions{})
	if kerrors.IsAlreadyExists(err) {
		// Nobody else writes it.
		_, err = all.Update(ctx, wanted, meta.UpdateOptions{})
	}
	if kerrors.IsNotFound(err) || kerrors.HasStatusCause(err, core.NamespaceTerminatingCause) {
		return nil
	}
	return err
}
