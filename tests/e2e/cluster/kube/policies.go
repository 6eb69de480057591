// NetworkPolicies enforced on this node, by kube-router's controller for them: a part that Kubernetes itself does
// not bring, as it leaves it to the network plugin, and Debian's bridge plugin does not do it.
package main

import (
	"fmt"
	"sync"
	"time"

	"github.com/cloudnativelabs/kube-router/v2/pkg/controllers/netpol"
	"github.com/cloudnativelabs/kube-router/v2/pkg/healthcheck"
	"github.com/cloudnativelabs/kube-router/v2/pkg/options"
	"github.com/spf13/cobra"
	genericserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// Each time, the controller compares and writes the rules of all pods, in a dozen processes of iptables and ipset.
// Pods come and go by the hundred in some tests: what changes within this time is one change.
const atMostEvery = time.Second

func newPoliciesCommand() *cobra.Command {
	config := options.NewKubeRouterConfig()
	config.EnableIPv4 = true
	command := &cobra.Command{
		Use:          "network-policies",
		Short:        "Enforce NetworkPolicies on this node, by iptables and ip sets",
		SilenceUsage: true,
		RunE:         func(*cobra.Command, []string) error { return enforce(config) },
	}
	flags := command.Flags()
	flags.StringVar(&config.Kubeconfig, "kubeconfig", "", "of the cluster")
	flags.StringVar(&config.HostnameOverride, "hostname-override", "", "the node's name")
	flags.StringSliceVar(&config.ClusterIPCIDRs, "service-cluster-ip-range", nil, "of the API server")
	return command
}

// enforce keeps the node's rules as the policies say until it is told to stop, and takes them away then.
func enforce(config *options.KubeRouterConfig) error {
	stop := genericserver.SetupSignalHandler()
	access, err := clientcmd.BuildConfigFromFlags("", config.Kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(access)
	if err != nil {
		return err
	}

	watched := informers.NewSharedInformerFactory(client, 0)
	pods := watched.Core().V1().Pods().Informer()
	namespaces := watched.Core().V1().Namespaces().Informer()
	policies := watched.Networking().V1().NetworkPolicies().Informer()
	watched.Start(stop)
	watched.WaitForCacheSync(stop)

	var lock sync.Mutex
	newController := func() (*netpol.NetworkPolicyController, error) {
		tables, sets, err := netpol.NewIPTablesHandlers(config)
		if err != nil {
			return nil, err
		}
		return netpol.NewNetworkPolicyController(
			client, config, pods, policies, namespaces, &lock, tables, sets)
	}
	controller, err := newController()
	if err != nil {
		return err
	}
	changed := follow(pods, namespaces, policies)
	var running sync.WaitGroup
	running.Add(1)
	go controller.Run(unheard(), stop, &running)
	for {
		select {
		case <-changed:
			controller.RequestFullSync()
			time.Sleep(atMostEvery)
		case <-stop:
			running.Wait()
			// Another one, as the first still holds the rules that it wrote last.
			if controller, err = newController(); err != nil {
				return fmt.Errorf("its rules stay: %w", err)
			}
			controller.Cleanup()
			return nil
		}
	}
}

// follow returns a channel that has something to read when something has changed since the last reading.
func follow(informers ...cache.SharedIndexInformer) <-chan struct{} {
	changed := make(chan struct{}, 1)
	note := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	for _, informer := range informers {
		// The error says that the informer was stopped already; then all is.
		_, _ = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { note() },
			UpdateFunc: func(any, any) { note() },
			DeleteFunc: func(any) { note() },
		})
	}
	return changed
}

// unheard returns a channel for the controller's signs of life, which nobody asks for here.
func unheard() chan<- *healthcheck.ControllerHeartbeat {
	signs := make(chan *healthcheck.ControllerHeartbeat)
	go func() {
		for range signs {
		}
	}()
	return signs
}
