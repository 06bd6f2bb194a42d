// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Inside a pod: what brings its new connections to the proxy (redirect), and
 * what lets the answers of exempt ones leave directly (pod_ingress).
 *
 * Loaded once for each pod. Neither is trusted: where they fail or are evaded,
 * the guard drops what they would have brought to the proxy.
 */
#include "maps.bpf.h"
#include "kernel.bpf.h"
#include "packet.bpf.h"

#define TCX_NEXT (-1)
#define LOOPBACK_IFINDEX 1

const volatile __u64 pod_cookie;

/* Filled by the data plane. A slot is empty again when its listener is closed. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 2 * LISTENERS_PER_FAMILY);
	__type(key, __u32);
	__type(value, __u64);
} listeners SEC(".maps");

static __always_inline const struct settings *own_settings(void)
{
	struct place place = { .netns_cookie = pod_cookie };

	return bpf_map_lookup_elem(&settings, &place);
}

/*
 * The answers of a connection that does not pass the proxy leave by the main
 * table: they follow the mark that the accepted socket takes from its SYN
 * (net.ipv4.tcp_fwmark_accept).
 */
SEC("classifier")
int pod_ingress(struct __sk_buff *skb)
{
	const struct settings *pod;
	struct packet packet = {};
	struct flow_key key = {};

	if (parse(skb, &packet) != PARSED_IP || packet.protocol != IPPROTO_TCP || packet.fragment ||
	    !opens(&packet))
		return TCX_NEXT;
	pod = own_settings();
	if (!pod)
		return TCX_NEXT;
	key.netns_cookie = pod_cookie;
	key.local = packet.destination;
	key.remote = packet.source;
	key.local_port = packet.destination_port;
	key.remote_port = packet.source_port;
	if ((pod->flags & FLAG_DRAINING) || bpf_map_lookup_elem(&flows, &key))
		skb->mark = MARK_DIRECT;
	return TCX_NEXT;
}

static __always_inline void read_flow(struct bpf_sk_lookup *lookup, struct flow_key *key)
{
	key->netns_cookie = pod_cookie;
	if (lookup->family == AF_INET) {
		set_ipv4(&key->local, lookup->local_ip4);
		set_ipv4(&key->remote, lookup->remote_ip4);
	} else {
		key->local.word[0] = lookup->local_ip6[0];
		key->local.word[1] = lookup->local_ip6[1];
		key->local.word[2] = lookup->local_ip6[2];
		key->local.word[3] = lookup->local_ip6[3];
		key->remote.word[0] = lookup->remote_ip6[0];
		key->remote.word[1] = lookup->remote_ip6[1];
		key->remote.word[2] = lookup->remote_ip6[2];
		key->remote.word[3] = lookup->remote_ip6[3];
	}
	key->local_port = bpf_htons(lookup->local_port);
	key->remote_port = lookup->remote_port;
}

/* Without its listener a captured connection is refused: the application's own must not get it. */
static __always_inline int assign(struct bpf_sk_lookup *lookup, enum listener listener)
{
	__u32 slot = listener;
	struct bpf_sock *socket;
	long failed;

	if (lookup->family == AF_INET6)
		slot += LISTENERS_PER_FAMILY;
	socket = bpf_map_lookup_elem(&listeners, &slot);
	if (!socket)
		return SK_DROP;
	failed = bpf_sk_assign(lookup, socket, 0);
	bpf_sk_release(socket);
	return failed ? SK_DROP : SK_PASS;
}

/* Asked for every new TCP connection that arrives, also for those that routing sends back through lo. */
SEC("sk_lookup")
int redirect(struct bpf_sk_lookup *lookup)
{
	const struct settings *pod;
	struct flow_key key = {};

	if (lookup->protocol != IPPROTO_TCP)
		return SK_PASS;
	pod = own_settings();
	if (!pod)
		return SK_DROP;
	read_flow(lookup, &key);
	if (lookup->ingress_ifindex == LOOPBACK_IFINDEX) {
		if (is_loopback(&key.local) || is_own(pod, &key.local))
			return SK_PASS;
		return assign(lookup, LISTENER_OUTBOUND);
	}
	if ((pod->flags & FLAG_DRAINING) || bpf_map_lookup_elem(&flows, &key))
		return SK_PASS;
	switch (lookup->local_port) {
	case PORT_HBONE:
		return assign(lookup, LISTENER_HBONE);
	case PORT_OUTBOUND:
	case PORT_PLAINTEXT:
		return SK_DROP;
	default:
		return assign(lookup, LISTENER_PLAINTEXT);
	}
}

char _license[] SEC("license") = "GPL";
