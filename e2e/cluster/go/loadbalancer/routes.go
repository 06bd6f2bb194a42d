package loadbalancer

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// protocol marks our routes in the machine's table.
const protocol = netlink.RouteProtocol(201)

// route makes our routes exactly these: an address to its nodes. An address without nodes is unreachable, at once.
func route(wanted map[netip.Addr][]netip.Addr) error {
	present, err := netlink.RouteListFiltered(
		netlink.FAMILY_V4, &netlink.Route{Protocol: protocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("the routes cannot be listed: %w", err)
	}
	inForce := map[netip.Addr][]netip.Addr{}
	for _, one := range present {
		if one.Dst == nil {
			continue
		}
		address, ok := netip.AddrFromSlice(one.Dst.IP.To4())
		if !ok {
			continue
		}
		if _, keep := wanted[address]; !keep {
			if err := netlink.RouteDel(&one); err != nil {
				return fmt.Errorf("the route to %s cannot be removed: %w", address, err)
			}
			continue
		}
		inForce[address] = hopsOf(one)
	}
	for address, hops := range wanted {
		if now, has := inForce[address]; has && slices.Equal(now, hops) {
			continue
		}
		if err := replace(address, hops); err != nil {
			return fmt.Errorf("the route to %s cannot be set: %w", address, err)
		}
	}
	return nil
}

func replace(address netip.Addr, hops []netip.Addr) error {
	target := &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(32, 32)}
	wanted := &netlink.Route{Dst: target, Protocol: protocol}
	switch len(hops) {
	case 0:
		wanted.Type = unix.RTN_UNREACHABLE
	case 1:
		wanted.Gw = hops[0].AsSlice()
	default:
		for _, hop := range hops {
			wanted.MultiPath = append(wanted.MultiPath, &netlink.NexthopInfo{Gw: hop.AsSlice()})
		}
	}
	return netlink.RouteReplace(wanted)
}

// hopsOf gives a route's nodes, sorted.
func hopsOf(one netlink.Route) []netip.Addr {
	hops := []netip.Addr{}
	add := func(gateway net.IP) {
		if address, ok := netip.AddrFromSlice(gateway.To4()); ok {
			hops = append(hops, address)
		}
	}
	add(one.Gw)
	for _, hop := range one.MultiPath {
		add(hop.Gw)
	}
	slices.SortFunc(hops, netip.Addr.Compare)
	return hops
}
