// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * The guard: what may leave a pod and what may enter it.
 *
 * It runs at the host's end of the pod's veth, out of the pod's reach, where a
 * frame that comes from the pod still carries the socket that sent it. Where
 * there is no such end it runs inside the pod, on the interface itself.
 *
 * TCP passes if somebody trustworthy vouched for its socket: the data plane
 * before it listens or connects, or the agent for what was there before. An
 * exemption has to be configured, or to come from a process of the host.
 * Everything else is dropped and counted. No mark and no address is proof.
 *
 * A pass is TCX_NEXT, so that other programs on the interface have their say.
 */
#include "maps.bpf.h"
#include "kernel.bpf.h"
#include "packet.bpf.h"

#define TCX_NEXT (-1)
#define TCX_DROP 2

#define TCP_TIME_WAIT 6
#define TCP_LISTEN 10
#define TCP_NEW_SYN_RECV 12

/* Cookie of the namespace that the host's processes are in; never 0. */
const volatile __u64 home_cookie;
/* Of the pod, where the guard runs inside it; 0 at the host's end. */
const volatile __u64 pod_cookie;

static __always_inline const struct settings *settings_of(struct __sk_buff *skb)
{
	struct place place = { .netns_cookie = pod_cookie };

	if (!pod_cookie)
		place.ifindex = skb->ifindex;
	return bpf_map_lookup_elem(&settings, &place);
}

static __always_inline int drop(const struct settings *pod, enum direction direction,
				enum reason reason)
{
	count(pod, direction, reason);
	return TCX_DROP;
}

static __always_inline int pass(const struct settings *pod, enum direction direction,
				enum reason reason)
{
	count(pod, direction, reason);
	return TCX_NEXT;
}

static __always_inline int has_port(const __u16 *ports, __u32 length, __u16 port)
{
	__u32 i;

	for (i = 0; i < MAX_PORTS; i++) {
		if (i >= length)
			break;
		if (ports[i] == port)
			return 1;
	}
	return 0;
}

static __always_inline int in_cidrs(const struct settings *pod, const struct address *address)
{
	const struct cidr *cidr;
	__u32 i;

	for (i = 0; i < MAX_CIDRS; i++) {
		if (i >= pod->cidr_count)
			break;
		cidr = &pod->exclude_outbound_cidrs[i];
		/* ::/0 means IPv6, though IPv4 is written within it here. */
		if (is_ipv4(address) == is_ipv4(&cidr->address) &&
		    !((address->half[0] ^ cidr->address.half[0]) & cidr->mask.half[0]) &&
		    !((address->half[1] ^ cidr->address.half[1]) & cidr->mask.half[1]))
			return 1;
	}
	return 0;
}

/* Whether configuration lets the pod reach this far end directly. */
static __always_inline int excluded_outbound(const struct settings *pod,
					     const struct address *address, __u16 port)
{
	return has_port(pod->exclude_outbound_ports, pod->outbound_port_count, port) ||
	       in_cidrs(pod, address);
}

static __always_inline int excluded_inbound(const struct settings *pod, __u16 port)
{
	return (pod->flags & FLAG_BYPASS_INBOUND) ||
	       has_port(pod->exclude_inbound_ports, pod->inbound_port_count, port);
}

static __always_inline void flow_key(const struct settings *pod, const struct packet *packet,
				     enum direction direction, struct flow_key *key)
{
	key->netns_cookie = pod->netns_cookie;
	key->zero = 0;
	if (direction == DIRECTION_OUT) {
		key->local = packet->source;
		key->remote = packet->destination;
		key->local_port = packet->source_port;
		key->remote_port = packet->destination_port;
	} else {
		key->local = packet->destination;
		key->remote = packet->source;
		key->local_port = packet->destination_port;
		key->remote_port = packet->source_port;
	}
}

/* Lets the connection pass both ways from now on, and tells the pod's redirection to leave it alone. */
static __always_inline void remember(const struct flow_key *key, __u32 why)
{
	struct flow flow = { .why = why };

	bpf_map_update_elem(&flows, key, &flow, BPF_ANY);
}

static __always_inline enum reason reason_of(const struct flow *flow)
{
	switch (flow->why) {
	case FLOW_HOST:
		return REASON_HOST;
	case FLOW_BEFORE:
		return REASON_BEFORE;
	default:
		return REASON_EXCLUDED;
	}
}

/*
 * UDP does not pass the proxy. Where it is refused, what configuration excludes
 * still passes, DNS for example. A fragment shows no ports, only its address.
 */
static __always_inline int judge_udp(const struct settings *pod, const struct packet *packet,
				     enum direction direction)
{
	int excluded;

	if (!(pod->flags & FLAG_REFUSE_UDP) || (pod->flags & FLAG_DRAINING))
		return pass(pod, direction, REASON_UDP);
	if (direction == DIRECTION_OUT)
		excluded = excluded_outbound(pod, &packet->destination, packet->destination_port) ||
			   excluded_inbound(pod, packet->source_port);
	else
		excluded = excluded_outbound(pod, &packet->source, packet->source_port) ||
			   excluded_inbound(pod, packet->destination_port);
	if (excluded)
		return pass(pod, direction, REASON_UDP);
	return drop(pod, direction, REASON_UDP_REFUSED);
}

/*
 * Out of the pod, without a socket that could have been registered. The kernel
 * answers so: a reset to a segment that nobody awaits, the last acknowledgement
 * of a connection in TIME_WAIT. These carry nothing; a forged one gains nothing.
 */
static __always_inline int judge_answer(const struct settings *pod, const struct packet *packet,
					enum reason reason)
{
	if (!packet->fragment && !packet->payload_bytes && !(packet->tcp_flags & TCP_SYN) &&
	    (packet->tcp_flags & (TCP_RST | TCP_ACK)))
		return TCX_NEXT;
	return drop(pod, DIRECTION_OUT, reason);
}

/* Out of the pod, from a socket that nobody vouched for. */
static __always_inline int judge_socket(const struct settings *pod, const struct packet *packet,
					struct bpf_sock *socket)
{
	struct bpf_sock *full;

	/* A SYN-ACK: the socket is a mere request, the listener is what was registered. */
	if (socket->state == TCP_NEW_SYN_RECV) {
		struct bpf_sock *listener = bpf_get_listener_sock(socket);

		if (listener && bpf_sk_storage_get(&sockets, listener, 0, 0))
			return TCX_NEXT;
		return drop(pod, DIRECTION_OUT, REASON_UNREGISTERED_LISTENER);
	}
	/* What remains of a connection has lost its registration, and has nothing left to say. */
	if (socket->state == TCP_TIME_WAIT)
		return judge_answer(pod, packet, REASON_NO_SOCKET);
	full = bpf_sk_fullsock(socket);
	if (!full)
		return judge_answer(pod, packet, REASON_NO_SOCKET);
	if (full->family == AF_PACKET)
		return drop(pod, DIRECTION_OUT, REASON_RAW_SOCKET);
	/* The kernel's own answers come from a raw socket for TCP; a process may have one, too. */
	if (full->type == SOCK_RAW && full->protocol == IPPROTO_TCP)
		return judge_answer(pod, packet, REASON_RAW_SOCKET);
	if (full->type != SOCK_STREAM)
		return drop(pod, DIRECTION_OUT, REASON_RAW_SOCKET);
	return drop(pod, DIRECTION_OUT, REASON_UNREGISTERED_SOCKET);
}

/* A connection that may pass without the proxy: opened from outside, excluded, or older than enrolment. */
static __always_inline int exempt_out(struct __sk_buff *skb, const struct settings *pod,
				      const struct packet *packet, enum reason *reason)
{
	struct flow_key key = {};
	struct flow *flow;

	/* The rest of a packet has no ports: only a range can exclude it. */
	if (packet->fragment) {
		*reason = REASON_EXCLUDED;
		return in_cidrs(pod, &packet->destination);
	}
	flow_key(pod, packet, DIRECTION_OUT, &key);
	if (excluded_outbound(pod, &packet->destination, packet->destination_port)) {
		/* So that the answers find their way in. */
		if (!bpf_map_lookup_elem(&flows, &key))
			remember(&key, FLOW_EXCLUDED);
		*reason = REASON_EXCLUDED;
		return 1;
	}
	/* A remembered connection was opened already: a new one of the same ports is none of it. */
	if (opens(packet))
		return 0;
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow)
		return 0;
	if (flow->socket_cookie && flow->socket_cookie != bpf_get_socket_cookie(skb))
		return 0;
	*reason = reason_of(flow);
	return 1;
}

SEC("classifier")
int guard_from_pod(struct __sk_buff *skb)
{
	struct bpf_sock *socket = skb->sk;
	const struct settings *pod;
	struct packet packet = {};
	struct socket_tag *tag = NULL;
	enum reason reason = REASON_EXCLUDED;

	/* The usual case: one look at the socket, none at the packet. */
	if (socket)
		tag = bpf_sk_storage_get(&sockets, socket, 0, 0);
	if (tag && tag->role == ROLE_PROXY)
		return TCX_NEXT;

	pod = settings_of(skb);
	if (!pod)
		return TCX_DROP;
	if (tag)
		return pass(pod, DIRECTION_OUT, REASON_BEFORE);
	switch (parse(skb, &packet)) {
	case PARSED_IP:
		break;
	case PARSED_OTHER:
		return TCX_NEXT;
	default:
		return drop(pod, DIRECTION_OUT, REASON_MALFORMED);
	}
	if (packet.protocol == IPPROTO_UDP)
		return judge_udp(pod, &packet, DIRECTION_OUT);
	if (packet.protocol != IPPROTO_TCP)
		return TCX_NEXT;
	/* New connections go directly while the pod leaves the mesh. */
	if (pod->flags & FLAG_DRAINING)
		return TCX_NEXT;
	if (exempt_out(skb, pod, &packet, &reason))
		return pass(pod, DIRECTION_OUT, reason);
	if (!socket)
		return judge_answer(pod, &packet, REASON_NO_SOCKET);
	return judge_socket(pod, &packet, socket);
}

/*
 * Whether a process of the host sends this, the kubelet for example. Not told
 * by address, which a masqueraded client has as well, but by the namespace of
 * the very socket: what is forwarded has no socket left, and over a bridge it
 * has that of another pod.
 */
static __always_inline int from_host(struct __sk_buff *skb)
{
	struct bpf_sock *socket = skb->sk;
	struct tcp_sock *tcp;

	if (pod_cookie || !socket)
		return 0;
	tcp = bpf_skc_to_tcp_sock(socket);
	if (!tcp)
		return 0;
	return tcp->inet_conn.icsk_inet.sk.__sk_common.skc_net.net->net_cookie == home_cookie;
}

/*
 * Whether the pod's socket for this packet is registered, or, while it is being
 * accepted, its listener is. A listener alone awaits no payload: nothing would
 * take it, but a packet socket in the pod could read it. (So a connection by
 * SYN cookie begins with the client's empty acknowledgement.)
 */
static __always_inline int is_awaited(struct __sk_buff *skb, const struct settings *pod,
				      const struct packet *packet)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *socket, *listener;
	__u32 size = sizeof(tuple.ipv6);
	int awaited = 0;

	if (is_ipv4(&packet->destination)) {
		tuple.ipv4.saddr = packet->source.word[3];
		tuple.ipv4.daddr = packet->destination.word[3];
		tuple.ipv4.sport = packet->source_port;
		tuple.ipv4.dport = packet->destination_port;
		size = sizeof(tuple.ipv4);
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, packet->source.word, sizeof(tuple.ipv6.saddr));
		__builtin_memcpy(tuple.ipv6.daddr, packet->destination.word,
				 sizeof(tuple.ipv6.daddr));
		tuple.ipv6.sport = packet->source_port;
		tuple.ipv6.dport = packet->destination_port;
	}
	socket = bpf_skc_lookup_tcp(skb, &tuple, size, (__u64)(__s64)pod->netns_id, 0);
	if (!socket)
		return 0;
	if (socket->state == TCP_NEW_SYN_RECV) {
		listener = bpf_get_listener_sock(socket);
		if (listener)
			awaited = !!bpf_sk_storage_get(&sockets, listener, 0, 0);
	} else if (socket->state != TCP_LISTEN) {
		awaited = !!bpf_sk_storage_get(&sockets, socket, 0, 0);
	}
	bpf_sk_release(socket);
	return awaited;
}

/* The first segment of a connection that may reach the application without the proxy. */
static __always_inline int opens_exempt(const struct settings *pod, const struct packet *packet)
{
	struct flow_key key = {};

	flow_key(pod, packet, DIRECTION_IN, &key);
	if (excluded_inbound(pod, packet->destination_port)) {
		remember(&key, FLOW_EXCLUDED);
		return 1;
	}
	/* A new connection, captured, with the ports of one that was exempt. */
	if (bpf_map_lookup_elem(&flows, &key))
		bpf_map_delete_elem(&flows, &key);
	return 0;
}

/* The rest of it. What the host opened, the host goes on with: nobody else speaks for its socket. */
static __always_inline int continues_exempt(const struct settings *pod,
					    const struct packet *packet, enum reason *reason)
{
	struct flow_key key = {};
	struct flow *flow;

	flow_key(pod, packet, DIRECTION_IN, &key);
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow)
		return 0;
	*reason = reason_of(flow);
	return flow->why != FLOW_HOST;
}

static __always_inline int judge_host(const struct settings *pod, const struct packet *packet)
{
	struct flow_key key = {};

	if (opens(packet)) {
		flow_key(pod, packet, DIRECTION_IN, &key);
		remember(&key, FLOW_HOST);
	}
	return pass(pod, DIRECTION_IN, REASON_HOST);
}

static __always_inline int judge_tcp_in(struct __sk_buff *skb, const struct settings *pod,
					const struct packet *packet)
{
	enum reason reason;

	/* Nobody who speaks to the proxy sends these, and a piece has no ports to judge by. */
	if (packet->fragment)
		return drop(pod, DIRECTION_IN, REASON_MALFORMED);
	if (!is_own(pod, &packet->destination))
		return drop(pod, DIRECTION_IN, REASON_NOT_FOR_POD);
	/* Reached by redirection inside the pod only; from outside they would loop, or be misled. */
	if (packet->destination_port == bpf_htons(PORT_OUTBOUND) ||
	    packet->destination_port == bpf_htons(PORT_PLAINTEXT))
		return drop(pod, DIRECTION_IN, REASON_PROXY_PORT);
	if (pod->flags & FLAG_DRAINING)
		return TCX_NEXT;
	if (from_host(skb))
		return judge_host(pod, packet);
	if (opens(packet) && opens_exempt(pod, packet))
		return pass(pod, DIRECTION_IN, REASON_EXCLUDED);
	/* Who answers a SYN is judged by the answer, on its way out. */
	if (!packet->payload_bytes)
		return TCX_NEXT;
	/* The usual case first: it needs no look at the exempt connections. */
	if (is_awaited(skb, pod, packet))
		return TCX_NEXT;
	if (!opens(packet) && continues_exempt(pod, packet, &reason))
		return pass(pod, DIRECTION_IN, reason);
	return drop(pod, DIRECTION_IN, REASON_PLAINTEXT_IN);
}

SEC("classifier")
int guard_to_pod(struct __sk_buff *skb)
{
	const struct settings *pod = settings_of(skb);
	struct packet packet = {};

	if (!pod)
		return TCX_DROP;
	switch (parse(skb, &packet)) {
	case PARSED_IP:
		break;
	case PARSED_OTHER:
		return TCX_NEXT;
	default:
		return drop(pod, DIRECTION_IN, REASON_MALFORMED);
	}
	/* The pod's redirection accepts its own and local addresses from anywhere: not from a neighbour. */
	if (is_loopback(&packet.source) || is_own(pod, &packet.source))
		return drop(pod, DIRECTION_IN, REASON_SPOOFED);
	if (is_loopback(&packet.destination))
		return drop(pod, DIRECTION_IN, REASON_NOT_FOR_POD);
	if (packet.protocol == IPPROTO_UDP)
		return judge_udp(pod, &packet, DIRECTION_IN);
	if (packet.protocol != IPPROTO_TCP)
		return TCX_NEXT;
	return judge_tcp_in(skb, pod, &packet);
}

char _license[] SEC("license") = "GPL";
