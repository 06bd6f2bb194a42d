/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What the programs and the code that loads them agree upon. Mirrored in
 * native/crates/bpf/src/abi.rs; sizes are compared when the objects are loaded.
 *
 * The pinned name of a map carries the version of its layout (MAP_VERSION in
 * abi.rs): change both together. `sockets` and `flows` outlive the programs
 * that read them, so that an upgrade forgets no connection.
 */
#ifndef MELTEMI_ABI_H
#define MELTEMI_ABI_H

#include <linux/types.h>

/* Marks are for routing and prove nothing. */
#define MARK_MASK 0xfff
#define MARK_PROXY 0x539	/* the data plane's sockets */
#define MARK_DIRECT 0x53a	/* the connection does not pass the proxy */
#define MARK_CARRIED 0x53b	/* while draining: it still does */

#define PORT_OUTBOUND 15001
#define PORT_PLAINTEXT 15006
#define PORT_HBONE 15008

#define MAX_ADDRESSES 16
#define MAX_PORTS 64
#define MAX_CIDRS 64
#define MAX_FLOWS 65536
#define MAX_PODS 8192

/* Who vouched for a socket: the value of `sockets`. */
#define ROLE_PROXY 1		/* the data plane, before listen() or connect() */
#define ROLE_BEFORE 2		/* the agent: established before enrolment */

struct socket_tag {
	__u32 role;
};

/* Network order; IPv4 as ::ffff:a.b.c.d. */
struct address {
	union {
		__u64 half[2];
		__u32 word[4];
	};
};

struct cidr {
	struct address address;
	struct address mask;
};

/*
 * Where a program runs: {0, interface} at the host's end of a pod's veth,
 * {the pod's namespace cookie, 0} inside the pod. Cookies are never reused.
 */
struct place {
	__u64 netns_cookie;
	__u32 ifindex;
	__u32 zero;
};

#define FLAG_BYPASS_INBOUND 1
#define FLAG_REFUSE_UDP 2
#define FLAG_DRAINING 4

struct settings {
	__u64 netns_cookie;
	__u64 netns_inode;
	__s32 netns_id;		/* the pod's, as the guard's namespace numbers it; -1: its own */
	__u32 flags;
	__u32 address_count;
	__u32 inbound_port_count;
	__u32 outbound_port_count;
	__u32 cidr_count;
	struct address addresses[MAX_ADDRESSES];
	__u16 exclude_inbound_ports[MAX_PORTS];		/* network order */
	__u16 exclude_outbound_ports[MAX_PORTS];	/* network order */
	struct cidr exclude_outbound_cidrs[MAX_CIDRS];
};

/* A connection of a pod that passes without the proxy. Ports in network order. */
struct flow_key {
	__u64 netns_cookie;
	struct address local;	/* the pod's end */
	struct address remote;
	__u16 local_port;
	__u16 remote_port;
	__u32 zero;
};

#define FLOW_HOST 1		/* opened by a process of the host */
#define FLOW_EXCLUDED 2		/* an excluded port or range, or bypass-inbound */
#define FLOW_BEFORE 3		/* was being accepted at enrolment */

struct flow {
	__u64 socket_cookie;	/* 0: any socket of the pod */
	__u32 why;
	__u32 zero;
};

/* Drops first, then passes that somebody may want to know of. */
enum reason {
	REASON_UNREGISTERED_SOCKET,
	REASON_UNREGISTERED_LISTENER,
	REASON_RAW_SOCKET,
	REASON_NO_SOCKET,
	REASON_SPOOFED,
	REASON_NOT_FOR_POD,
	REASON_PROXY_PORT,
	REASON_PLAINTEXT_IN,
	REASON_UDP_REFUSED,
	REASON_MALFORMED,
	REASON_UDP,
	REASON_HOST,
	REASON_EXCLUDED,
	REASON_BEFORE,
	REASONS,
};

enum direction {
	DIRECTION_OUT,		/* from the pod */
	DIRECTION_IN,
	DIRECTIONS,
};

struct counters {
	__u64 packets[DIRECTIONS][REASONS];
};

/* Slots of a pod's `listeners`: the family's first, then the role. */
enum listener {
	LISTENER_OUTBOUND,
	LISTENER_PLAINTEXT,
	LISTENER_HBONE,
	LISTENERS_PER_FAMILY,
};

#endif
