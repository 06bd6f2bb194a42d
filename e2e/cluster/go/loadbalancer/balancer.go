package loadbalancer

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sort"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	core "k8s.io/client-go/listers/core/v1"
	endpoints "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/klog/v2"
)

type balancer struct {
	client   kubernetes.Interface
	pool     netip.Prefix
	services core.ServiceLister
	nodes    core.NodeLister
	slices   endpoints.EndpointSliceLister
}

// reconcile gives each service its address, oldest first, and makes the routes those that the addresses need.
func (b *balancer) reconcile(ctx context.Context) error {
	services, err := b.services.List(labels.Everything())
	if err != nil {
		return err
	}
	services = slices.DeleteFunc(slices.Clone(services), func(service *v1.Service) bool { return !ours(service) })
	sort.Slice(services, func(i, j int) bool {
		left, right := services[i], services[j]
		if !left.CreationTimestamp.Equal(&right.CreationTimestamp) {
			return left.CreationTimestamp.Before(&right.CreationTimestamp)
		}
		return left.UID < right.UID
	})

	taken := map[netip.Addr]*v1.Service{}
	for _, service := range services {
		if address, has := given(service); has && b.pool.Contains(address) && taken[address] == nil {
			taken[address] = service
		}
	}
	for _, service := range services {
		if address, has := given(service); has && taken[address] == service {
			continue
		}
		address, err := b.free(taken)
		if err != nil {
			return err
		}
		if err := b.give(ctx, service, address); err != nil {
			return fmt.Errorf("%s/%s: %w", service.Namespace, service.Name, err)
		}
		taken[address] = service
	}

	ready, err := b.readyNodes()
	if err != nil {
		return err
	}
	wanted := map[netip.Addr][]netip.Addr{}
	for address, service := range taken {
		hops, err := b.hops(service, ready)
		if err != nil {
			return err
		}
		wanted[address] = hops
	}
	return route(wanted)
}

// ours tells whether the service asks for an address of the cluster's default load balancer.
func ours(service *v1.Service) bool {
	return service.Spec.Type == v1.ServiceTypeLoadBalancer &&
		service.Spec.LoadBalancerClass == nil &&
		service.DeletionTimestamp == nil
}

func given(service *v1.Service) (netip.Addr, bool) {
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		if address, err := netip.ParseAddr(ingress.IP); err == nil {
			return address, true
		}
	}
	return netip.Addr{}, false
}

// free is the lowest address that nobody has; the network's own is not one.
func (b *balancer) free(taken map[netip.Addr]*v1.Service) (netip.Addr, error) {
	for address := b.pool.Masked().Addr().Next(); b.pool.Contains(address); address = address.Next() {
		if taken[address] == nil {
			return address, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address is left in %s", b.pool)
}

func (b *balancer) give(ctx context.Context, service *v1.Service, address netip.Addr) error {
	mode := v1.LoadBalancerIPModeVIP
	changed := service.DeepCopy()
	changed.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: address.String(), IPMode: &mode}}
	_, err := b.client.CoreV1().Services(service.Namespace).UpdateStatus(ctx, changed, meta.UpdateOptions{})
	if err == nil {
		klog.InfoS("address given", "service", klog.KObj(service), "address", address)
	}
	return err
}

// readyNodes gives the addresses of the nodes that can take traffic, by name.
func (b *balancer) readyNodes() (map[string]netip.Addr, error) {
	nodes, err := b.nodes.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	ready := map[string]netip.Addr{}
	for _, node := range nodes {
		if !isReady(node) {
			continue
		}
		for _, one := range node.Status.Addresses {
			if address, err := netip.ParseAddr(one.Address); err == nil && one.Type == v1.NodeInternalIP {
				ready[node.Name] = address
			}
		}
	}
	return ready, nil
}

func isReady(node *v1.Node) bool {
	if _, excluded := node.Labels[v1.LabelNodeExcludeBalancers]; excluded {
		return false
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == v1.NodeReady {
			return condition.Status == v1.ConditionTrue
		}
	}
	return false
}

// hops gives the nodes that the service's traffic may be sent to: any, or those with an endpoint of its own.
func (b *balancer) hops(service *v1.Service, ready map[string]netip.Addr) ([]netip.Addr, error) {
	local := map[string]bool{}
	onlyLocal := service.Spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal
	if onlyLocal {
		selector := labels.SelectorFromSet(labels.Set{discovery.LabelServiceName: service.Name})
		found, err := b.slices.EndpointSlices(service.Namespace).List(selector)
		if err != nil {
			return nil, err
		}
		for _, slice := range found {
			for _, endpoint := range slice.Endpoints {
				serves := endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready
				if endpoint.NodeName != nil && serves {
					local[*endpoint.NodeName] = true
				}
			}
		}
	}
	hops := []netip.Addr{}
	for name, address := range ready {
		if !onlyLocal || local[name] {
			hops = append(hops, address)
		}
	}
	slices.SortFunc(hops, netip.Addr.Compare)
	return hops, nil
}
