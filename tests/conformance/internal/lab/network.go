// Package lab is the machine that the suite runs on: a private network with a bridge for pods, and the relay's process.
package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"
)

const (
	// gatewayNetwork has an address for each Gateway. It is on loopback whole, so that any can be bound at any port.
	gatewayNetwork = "10.96.0.0/16"
	podNetwork4    = "10.97.0.0/16"
	podNetwork6    = "fd00:97::/64"
	// podBridge is where the host's ends of all pods' links are.
	podBridge = "pods"
	// podsMax is what one bridge takes: it has 1024 ports. The suite's manifests have 36 Deployments.
	podsMax = 1000
	// ipPatience is for one call of ip(8), which waits for nothing but the kernel.
	ipPatience = 20 * time.Second
)

// UsableAddress is one that a Gateway may ask for, and UnusableAddress one that this host does not have.
var (
	UsableAddress   = netip.MustParseAddr("10.96.1.250")
	UnusableAddress = netip.MustParseAddr("192.0.2.1")
)

// Network hands out the pods' network namespaces. It is not for concurrent use.
type Network struct {
	made int
}

// PodNetwork is one pod's network namespace.
type PodNetwork struct {
	// Name is what ip-netns(8) knows it by.
	Name       string
	IPv4, IPv6 netip.Addr
	link       string
}

// PodNetworks are those that the relay must be allowed to dial.
func PodNetworks() []string { return []string{podNetwork4, podNetwork6} }

// Raise brings up loopback and the bridge. It refuses to touch a network namespace that somebody else uses.
func Raise() (*Network, error) {
	if err := mustBePrivate(); err != nil {
		return nil, err
	}
	// Names of namespaces are files below it; the mount namespace is private, too.
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		return nil, err
	}
	gateways, pods4, pods6 := first(gatewayNetwork), first(podNetwork4), first(podNetwork6)
	return &Network{}, batch("",
		"link set lo up",
		fmt.Sprintf("addr add %s dev lo", gateways),
		fmt.Sprintf("link add %s type bridge forward_delay 0 stp_state 0", podBridge),
		fmt.Sprintf("addr add %s dev %s", pods4, podBridge),
		fmt.Sprintf("addr add %s dev %s nodad", pods6, podBridge),
		fmt.Sprintf("link set %s up", podBridge),
	)
}

// Pod makes a network namespace with an IPv4 and an IPv6 address that are nobody else's in this run.
func (n *Network) Pod() (PodNetwork, error) {
	if n.made == podsMax {
		return PodNetwork{}, fmt.Errorf("%d pods in one run: the bridge takes no more", podsMax)
	}
	n.made++
	pod := PodNetwork{
		Name: fmt.Sprintf("pod%d", n.made),
		IPv4: nth(podNetwork4, n.made),
		IPv6: nth(podNetwork6, n.made),
		link: fmt.Sprintf("veth%d", n.made),
	}
	err := batch("",
		"netns add "+pod.Name,
		fmt.Sprintf("link add %s type veth peer name eth0 netns %s", pod.link, pod.Name),
		fmt.Sprintf("link set %s master %s up", pod.link, podBridge),
	)
	if err != nil {
		return pod, err
	}
	return pod, batch(pod.Name,
		"link set lo up",
		fmt.Sprintf("addr add %s/16 dev eth0", pod.IPv4),
		fmt.Sprintf("addr add %s/64 dev eth0 nodad", pod.IPv6),
		"link set eth0 up",
		fmt.Sprintf("route add default via %s", nth(podNetwork4, 0)),
	)
}

// Remove takes a pod's namespace away, and its link with it.
func (n *Network) Remove(pod PodNetwork) error {
	return errors.Join(batch("", "link del "+pod.link), batch("", "netns del "+pod.Name))
}

// Command is a command within the pod's network namespace.
func (p PodNetwork) Command(name string, arguments ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=/run/netns/" + p.Name, name}, arguments...)...)
}

// nth is the bridge's address for 0, and a pod's for anything else.
func nth(network string, n int) netip.Addr {
	address := netip.MustParsePrefix(network).Addr().Next()
	for range n {
		address = address.Next()
	}
	return address
}

// first is the network's first address, with the network's length.
func first(network string) netip.Prefix {
	return netip.PrefixFrom(nth(network, 0), netip.MustParsePrefix(network).Bits())
}

// mustBePrivate fails where any interface but loopback is up, or loopback is.
func mustBePrivate() error {
	interfaces, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, found := range interfaces {
		if found.Flags&net.FlagUp != 0 {
			return fmt.Errorf("interface %s is up: this needs a new network namespace; run it by scripts/conformance", found.Name)
		}
	}
	return nil
}

// batch runs commands of ip(8), in a namespace when one is named, and stops at the first that fails.
func batch(namespace string, commands ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), ipPatience)
	defer cancel()
	arguments := []string{"-batch", "-"}
	if namespace != "" {
		arguments = append([]string{"-n", namespace}, arguments...)
	}
	command := exec.CommandContext(ctx, "ip", arguments...)
	command.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(commands, "; "), err, strings.TrimSpace(string(output)))
	}
	return nil
}
