// Package cluster plays the controllers and the one node of a cluster, as far as the suite leans on them: Deployments
// become Pods that run, Pods become endpoints of Services, and what Pods print becomes their log. It knows the relay's API
// by watches only, and acts when one of them says something.
package cluster

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	apps "k8s.io/client-go/listers/apps/v1"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"underpass.dev/tests/conformance/internal/lab"
)

const (
	// syncPatience is for the first lists of all watches.
	syncPatience = 30 * time.Second
	// retryAfter is when something that the API refused is tried again.
	retryAfter = 250 * time.Millisecond
	// callPatience is for one request to the API.
	callPatience = 20 * time.Second
	nodeName     = "conformance"
)

// Options is what a Cluster needs.
type Options struct {
	Config  *rest.Config
	Network *lab.Network
	// Echo and DNS are the programs that the suite's images are.
	Echo, DNS string
	// Folder is for the pods' volumes and logs.
	Folder string
	// Say is told what went wrong, and may be called at any time.
	Say func(format string, arguments ...any)
}

// Cluster runs until its context ends.
type Cluster struct {
	Options
	client      kubernetes.Interface
	deployments apps.DeploymentLister
	services    listers.ServiceLister
	secrets     listers.SecretLister
	configMaps  listers.ConfigMapLister
	// changed holds a value when there is something to look at.
	changed chan struct{}
	// pods are those that run or will, by uid; slices what was last published of a Service. Only the loop knows them.
	pods   map[types.UID]*pod
	slices map[types.UID]string

	lock sync.Mutex
	// deleted are Pods that a watch saw going, for the loop to stop.
	deleted []types.UID
	done    chan struct{}
}

// Start watches, and acts from then on. Cancel ctx and call Wait to end it.
func Start(ctx context.Context, options Options) (*Cluster, error) {
	client, err := kubernetes.NewForConfig(options.Config)
	if err != nil {
		return nil, err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	cluster := &Cluster{
		Options:     options,
		client:      client,
		deployments: factory.Apps().V1().Deployments().Lister(),
		services:    factory.Core().V1().Services().Lister(),
		secrets:     factory.Core().V1().Secrets().Lister(),
		configMaps:  factory.Core().V1().ConfigMaps().Lister(),
		changed:     make(chan struct{}, 1),
		pods:        map[types.UID]*pod{},
		slices:      map[types.UID]string{},
		done:        make(chan struct{}),
	}
	informed := []cache.SharedIndexInformer{
		factory.Apps().V1().Deployments().Informer(), factory.Core().V1().Services().Informer(),
		factory.Core().V1().Secrets().Informer(), factory.Core().V1().ConfigMaps().Informer(),
	}
	for _, informer := range informed {
		if _, err := informer.AddEventHandler(cluster.waking()); err != nil {
			return nil, err
		}
	}
	gone := cache.ResourceEventHandlerFuncs{DeleteFunc: cluster.podDeleted}
	if _, err := factory.Core().V1().Pods().Informer().AddEventHandler(gone); err != nil {
		return nil, err
	}
	factory.Start(ctx.Done())
	wait, cancel := context.WithTimeout(ctx, syncPatience)
	defer cancel()
	for kind, synced := range factory.WaitForCacheSync(wait.Done()) {
		if !synced {
			return nil, fmt.Errorf("the watch of %s did not begin in %s", kind, syncPatience)
		}
	}
	go cluster.run(ctx)
	return cluster, nil
}

// Wait returns when everything that ran has ended, after the context has.
func (c *Cluster) Wait() { <-c.done }

func (c *Cluster) waking() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { c.wake() },
		UpdateFunc: func(any, any) { c.wake() },
		DeleteFunc: func(any) { c.wake() },
	}
}

// wake makes the loop look again; many calls at once are one.
func (c *Cluster) wake() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

func (c *Cluster) podDeleted(object any) {
	if missed, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = missed.Obj
	}
	if found, ok := object.(*core.Pod); ok {
		c.lock.Lock()
		c.deleted = append(c.deleted, found.UID)
		c.lock.Unlock()
		c.wake()
	}
}

func (c *Cluster) run(ctx context.Context) {
	defer close(c.done)
	defer c.stopAll()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.changed:
		}
		if err := c.reconcile(ctx); err != nil && ctx.Err() == nil {
			c.Say("cluster: %v", err)
			time.AfterFunc(retryAfter, c.wake)
		}
	}
}

// reconcile makes what runs and what is published follow from what is stored. The first error of each object is told; the
// others go on.
func (c *Cluster) reconcile(ctx context.Context) error {
	c.lock.Lock()
	deleted := c.deleted
	c.deleted = nil
	c.lock.Unlock()
	for _, uid := range deleted {
		if found, ok := c.pods[uid]; ok {
			found.stop(c)
			delete(c.pods, uid)
		}
	}
	var problems problems
	problems.add(c.createPods(ctx))
	for _, found := range c.ordered() {
		problems.add(found.advance(ctx, c))
	}
	problems.add(c.publishServices(ctx))
	return problems.joined()
}

// ordered is by name, so that two runs do the same.
func (c *Cluster) ordered() []*pod {
	return slices.SortedFunc(maps.Values(c.pods), func(a, b *pod) int { return compare(a.object, b.object) })
}

func (c *Cluster) stopAll() {
	for _, found := range c.pods {
		found.stop(c)
	}
}

// call bounds one request.
func call(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, callPatience)
}
