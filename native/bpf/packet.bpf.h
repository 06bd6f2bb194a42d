/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What a frame says. Every length is checked against the frame; what cannot be
 * read to the end is malformed, and nothing malformed is passed to or from a
 * pod: the receiver might read it differently.
 */
#ifndef MELTEMI_PACKET_BPF_H
#define MELTEMI_PACKET_BPF_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define MAX_VLAN_TAGS 2
#define MAX_EXTENSION_HEADERS 8

enum parsed {
	PARSED_IP,
	PARSED_OTHER,		/* not IP: ARP and the like */
	PARSED_MALFORMED,
};

struct packet {
	struct address source;
	struct address destination;
	__u16 source_port;	/* network order; TCP and UDP only */
	__u16 destination_port;
	__u32 offset;		/* of the header that is read next */
	__u32 end;		/* of the packet, as its IP header has it */
	__u32 payload_bytes;	/* TCP only */
	__u16 ether_type;	/* network order */
	__u8 protocol;
	__u8 tcp_flags;
	__u8 fragment;		/* a piece, first or not: ports are not looked at */
};

/* 14 on Ethernet, 0 on interfaces whose frames begin with the IP header. */
const volatile __u32 link_header_bytes = ETH_HLEN;

static __always_inline int is_mapped(const struct in6_addr *address)
{
	const __u32 *word = address->in6_u.u6_addr32;

	return !word[0] && !word[1] && word[2] == bpf_htonl(0xffff);
}

static __always_inline void set_ipv4(struct address *address, __u32 value)
{
	address->half[0] = 0;
	address->word[2] = bpf_htonl(0xffff);
	address->word[3] = value;
}

static __always_inline void set_ipv6(struct address *address, const struct in6_addr *value)
{
	address->word[0] = value->in6_u.u6_addr32[0];
	address->word[1] = value->in6_u.u6_addr32[1];
	address->word[2] = value->in6_u.u6_addr32[2];
	address->word[3] = value->in6_u.u6_addr32[3];
}

static __always_inline int is_ipv4(const struct address *address)
{
	return !address->half[0] && address->word[2] == bpf_htonl(0xffff);
}

static __always_inline int is_loopback(const struct address *address)
{
	if (is_ipv4(address))
		return (address->word[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !address->half[0] && address->half[1] == bpf_cpu_to_be64(1);
}

static __always_inline int equal(const struct address *a, const struct address *b)
{
	return a->half[0] == b->half[0] && a->half[1] == b->half[1];
}

/* One of the pod's addresses. */
static __always_inline int is_own(const struct settings *pod, const struct address *address)
{
	__u32 i;

	for (i = 0; i < MAX_ADDRESSES; i++) {
		if (i >= pod->address_count)
			break;
		if (equal(&pod->addresses[i], address))
			return 1;
	}
	return 0;
}

/* Finds the network header, past VLAN tags: a packet socket may write some. */
static __always_inline enum parsed parse_link(struct __sk_buff *skb, struct packet *packet)
{
	struct {
		__u16 tag;
		__u16 ether_type;
	} vlan;
	int i;

	if (!link_header_bytes) {
		packet->ether_type = skb->protocol;
		packet->offset = 0;
		return PARSED_IP;
	}
	if (bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_proto), &packet->ether_type, 2))
		return PARSED_MALFORMED;
	packet->offset = ETH_HLEN;
	for (i = 0; i < MAX_VLAN_TAGS; i++) {
		if (packet->ether_type != bpf_htons(ETH_P_8021Q) &&
		    packet->ether_type != bpf_htons(ETH_P_8021AD))
			return PARSED_IP;
		if (bpf_skb_load_bytes(skb, packet->offset, &vlan, sizeof(vlan)))
			return PARSED_MALFORMED;
		packet->ether_type = vlan.ether_type;
		packet->offset += sizeof(vlan);
	}
	if (packet->ether_type == bpf_htons(ETH_P_8021Q) ||
	    packet->ether_type == bpf_htons(ETH_P_8021AD))
		return PARSED_MALFORMED;
	return PARSED_IP;
}

static __always_inline enum parsed parse_ipv4(struct __sk_buff *skb, struct packet *packet)
{
	struct iphdr ip;
	__u32 total;

	if (bpf_skb_load_bytes(skb, packet->offset, &ip, sizeof(ip)))
		return PARSED_MALFORMED;
	if (ip.version != 4 || ip.ihl < 5)
		return PARSED_MALFORMED;
	/* A segment too big for the field has 0 there (BIG TCP): only what the kernel made is that long. */
	total = bpf_ntohs(ip.tot_len);
	if (!total && skb->gso_size)
		total = skb->len - packet->offset;
	if (total < ip.ihl * 4 || packet->offset + total > skb->len)
		return PARSED_MALFORMED;
	set_ipv4(&packet->source, ip.saddr);
	set_ipv4(&packet->destination, ip.daddr);
	packet->protocol = ip.protocol;
	/* More to come, or not the first. */
	packet->fragment = !!(ip.frag_off & bpf_htons(0x3fff));
	packet->end = packet->offset + total;
	packet->offset += ip.ihl * 4;
	return PARSED_IP;
}

static __always_inline int is_extension(__u8 protocol)
{
	switch (protocol) {
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_FRAGMENT:
	case IPPROTO_DSTOPTS:
	case IPPROTO_AH:
		return 1;
	default:
		return 0;
	}
}

/* Walks to the transport header. Behind a fragment header it may not be there: then it is not read. */
static __always_inline enum parsed parse_extensions(struct __sk_buff *skb, struct packet *packet)
{
	struct {
		__u8 next;
		__u8 length;
		__u16 fragment;
	} extension;
	int i;

	for (i = 0; i < MAX_EXTENSION_HEADERS; i++) {
		if (!is_extension(packet->protocol))
			return PARSED_IP;
		if (packet->offset + 8 > packet->end ||
		    bpf_skb_load_bytes(skb, packet->offset, &extension, sizeof(extension)))
			return PARSED_MALFORMED;
		if (packet->protocol == IPPROTO_FRAGMENT) {
			packet->offset += 8;
			if (extension.fragment & bpf_htons(0xfff9))
				packet->fragment = 1;
		} else if (packet->protocol == IPPROTO_AH) {
			packet->offset += (extension.length + 2) * 4;
		} else {
			packet->offset += (extension.length + 1) * 8;
		}
		packet->protocol = extension.next;
		if (packet->fragment)
			return PARSED_IP;
	}
	return is_extension(packet->protocol) ? PARSED_MALFORMED : PARSED_IP;
}

static __always_inline enum parsed parse_ipv6(struct __sk_buff *skb, struct packet *packet)
{
	struct ipv6hdr ip;
	__u32 length;

	if (bpf_skb_load_bytes(skb, packet->offset, &ip, sizeof(ip)))
		return PARSED_MALFORMED;
	/* On the wire mapped addresses are invalid, and here they would be taken for IPv4. */
	if (ip.version != 6 || is_mapped(&ip.saddr) || is_mapped(&ip.daddr))
		return PARSED_MALFORMED;
	/* 0 with a jumbo option: taken to the frame's end, so that no payload goes unseen. */
	length = bpf_ntohs(ip.payload_len);
	if (!length)
		length = skb->len - packet->offset - sizeof(ip);
	if (packet->offset + sizeof(ip) + length > skb->len)
		return PARSED_MALFORMED;
	set_ipv6(&packet->source, &ip.saddr);
	set_ipv6(&packet->destination, &ip.daddr);
	packet->protocol = ip.nexthdr;
	packet->offset += sizeof(ip);
	packet->end = packet->offset + length;
	return parse_extensions(skb, packet);
}

static __always_inline enum parsed parse_ports(struct __sk_buff *skb, struct packet *packet)
{
	__u16 ports[2];

	if (packet->offset + 8 > packet->end ||
	    bpf_skb_load_bytes(skb, packet->offset, ports, sizeof(ports)))
		return PARSED_MALFORMED;
	packet->source_port = ports[0];
	packet->destination_port = ports[1];
	return PARSED_IP;
}

static __always_inline enum parsed parse_tcp(struct __sk_buff *skb, struct packet *packet)
{
	struct {
		__u8 header_words;	/* in the upper half */
		__u8 flags;
	} tcp;
	__u32 header;

	if (packet->offset + 20 > packet->end || parse_ports(skb, packet) != PARSED_IP ||
	    bpf_skb_load_bytes(skb, packet->offset + 12, &tcp, sizeof(tcp)))
		return PARSED_MALFORMED;
	header = (tcp.header_words >> 4) * 4;
	if (header < 20 || packet->offset + header > packet->end)
		return PARSED_MALFORMED;
	packet->tcp_flags = tcp.flags;
	packet->payload_bytes = packet->end - packet->offset - header;
	return PARSED_IP;
}

/*
 * The usual frames, read in place: IP without options or extensions, TCP, whole.
 * Returns 0, with nothing to be relied on in `packet`, for any other: those are
 * read step by step, and judged by what is found there.
 */
static __always_inline int parse_usual(struct __sk_buff *skb, struct packet *packet)
{
	void *end = (void *)(long)skb->data_end;
	void *data = (void *)(long)skb->data;
	struct {
		__u16 source_port;
		__u16 destination_port;
		__u32 numbers[2];
		__u8 header_words;	/* in the upper half */
		__u8 flags;
		__u8 rest[6];
	} *tcp;
	struct ethhdr *link = data;
	struct ipv6hdr *ip6;
	struct iphdr *ip;
	__u16 ether_type;
	__u32 header, length;

	if (link_header_bytes && (void *)(link + 1) > end)
		return 0;
	ether_type = link_header_bytes ? link->h_proto : (__u16)skb->protocol;
	if (ether_type == bpf_htons(ETH_P_IP)) {
		ip = data + link_header_bytes;
		tcp = (void *)(ip + 1);
		if ((void *)(tcp + 1) > end)
			return 0;
		length = bpf_ntohs(ip->tot_len) - sizeof(*ip);
		if (ip->version != 4 || ip->ihl != 5 || ip->protocol != IPPROTO_TCP ||
		    (ip->frag_off & bpf_htons(0x3fff)))
			return 0;
		set_ipv4(&packet->source, ip->saddr);
		set_ipv4(&packet->destination, ip->daddr);
		packet->offset = link_header_bytes + sizeof(*ip);
	} else if (ether_type == bpf_htons(ETH_P_IPV6)) {
		ip6 = data + link_header_bytes;
		tcp = (void *)(ip6 + 1);
		if ((void *)(tcp + 1) > end)
			return 0;
		length = bpf_ntohs(ip6->payload_len);
		if (ip6->version != 6 || ip6->nexthdr != IPPROTO_TCP || is_mapped(&ip6->saddr) ||
		    is_mapped(&ip6->daddr))
			return 0;
		set_ipv6(&packet->source, &ip6->saddr);
		set_ipv6(&packet->destination, &ip6->daddr);
		packet->offset = link_header_bytes + sizeof(*ip6);
	} else {
		return 0;
	}
	header = (tcp->header_words >> 4) * 4;
	/* Also where the length is 0, which means another, or less than the header before it. */
	if (header < 20 || length < header || length > skb->len - packet->offset)
		return 0;
	packet->ether_type = ether_type;
	packet->protocol = IPPROTO_TCP;
	packet->fragment = 0;
	packet->end = packet->offset + length;
	packet->source_port = tcp->source_port;
	packet->destination_port = tcp->destination_port;
	packet->tcp_flags = tcp->flags;
	packet->payload_bytes = length - header;
	return 1;
}

/* Fills `packet` from the frame. Only where PARSED_IP is returned it may be looked at. */
static __always_inline enum parsed parse(struct __sk_buff *skb, struct packet *packet)
{
	enum parsed parsed;

	if (parse_usual(skb, packet))
		return PARSED_IP;
	parsed = parse_link(skb, packet);
	if (parsed != PARSED_IP)
		return parsed;
	if (packet->ether_type == bpf_htons(ETH_P_IP))
		parsed = parse_ipv4(skb, packet);
	else if (packet->ether_type == bpf_htons(ETH_P_IPV6))
		parsed = parse_ipv6(skb, packet);
	else
		return PARSED_OTHER;
	if (parsed != PARSED_IP || packet->fragment)
		return parsed;
	if (packet->protocol == IPPROTO_TCP)
		return parse_tcp(skb, packet);
	if (packet->protocol == IPPROTO_UDP)
		return parse_ports(skb, packet);
	return PARSED_IP;
}

/* The first segment of a connection, from the one who opens it. */
static __always_inline int opens(const struct packet *packet)
{
	return (packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

#endif
