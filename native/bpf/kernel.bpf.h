/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The few members of the kernel's own structures that are read. Their places
 * are found when a program is loaded, in the running kernel's BTF.
 */
#ifndef MELTEMI_KERNEL_BPF_H
#define MELTEMI_KERNEL_BPF_H

#include <linux/types.h>

#define AF_INET 2
#define AF_INET6 10
#define AF_PACKET 17

#define SOCK_STREAM 1
#define SOCK_RAW 3

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct net {
	__u64 net_cookie;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct in6_words {
	__u32 words[4];
};

struct sock_common {
	__u32 skc_daddr;
	__u32 skc_rcv_saddr;
	__u16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	struct in6_words skc_v6_daddr;
	struct in6_words skc_v6_rcv_saddr;
	possible_net_t skc_net;
};

struct sock {
	struct sock_common __sk_common;
	__u32 sk_mark;
};

struct inet_sock {
	struct sock sk;
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};

#pragma clang attribute pop

#endif
