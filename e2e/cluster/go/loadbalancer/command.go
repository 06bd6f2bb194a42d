// Package loadbalancer stands in for a cloud: it gives Services of type LoadBalancer an address and routes it, on the
// machine that carries the cluster, to the nodes that serve it. What happens on a node is kube-proxy's.
package loadbalancer

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// NewCommand returns the controller's command.
func NewCommand() *cobra.Command {
	var kubeconfig, pool string
	command := &cobra.Command{
		Use:          "load-balancer",
		Short:        "Gives addresses to Services of type LoadBalancer and routes them to their nodes",
		SilenceUsage: true,
		RunE: func(command *cobra.Command, _ []string) error {
			prefix, err := netip.ParsePrefix(pool)
			if err != nil {
				return fmt.Errorf("--pool: %w", err)
			}
			config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return fmt.Errorf("--kubeconfig %s: %w", kubeconfig, err)
			}
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			return run(command.Context(), client, prefix)
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the API server")
	command.Flags().StringVar(&pool, "pool", "", "where addresses are taken from, ADDRESS/BITS")
	return command
}

// run brings everything in order whenever anything has changed, and every half minute besides.
func run(ctx context.Context, client kubernetes.Interface, pool netip.Prefix) error {
	if ctx == nil {
		ctx = context.Background()
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	services := factory.Core().V1().Services()
	nodes := factory.Core().V1().Nodes()
	slices := factory.Discovery().V1().EndpointSlices()

	changed := make(chan struct{}, 1)
	tell := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { tell() },
		UpdateFunc: func(any, any) { tell() },
		DeleteFunc: func(any) { tell() },
	}
	for _, informer := range []cache.SharedIndexInformer{services.Informer(), nodes.Informer(), slices.Informer()} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return err
		}
	}
	factory.Start(ctx.Done())
	for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			return fmt.Errorf("%v could not be listed", kind)
		}
	}

	balancer := &balancer{
		client:   client,
		pool:     pool,
		services: services.Lister(),
		nodes:    nodes.Lister(),
		slices:   slices.Lister(),
	}
	for {
		if err := balancer.reconcile(ctx); err != nil {
			klog.ErrorS(err, "addresses are not in order, trying again")
			time.AfterFunc(time.Second, tell)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(30 * time.Second):
		}
	}
}
