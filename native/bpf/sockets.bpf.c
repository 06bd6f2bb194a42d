// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Walks over the TCP sockets of the namespace that the reader is in. Each
 * program writes one byte for each socket that it has marked.
 */
#include "maps.bpf.h"
#include "kernel.bpf.h"
#include "packet.bpf.h"
#include <bpf/bpf_core_read.h>

#define SOL_SOCKET 1
#define SO_MARK 36

#define TCP_SYN_SENT 2
#define TCP_TIME_WAIT 6
#define TCP_CLOSE 7
#define TCP_LISTEN 10
#define TCP_NEW_SYN_RECV 12

static __always_inline void report(struct bpf_iter__tcp *ctx)
{
	__u8 one = 1;

	bpf_seq_write(ctx->meta->seq, &one, sizeof(one));
}

static __always_inline void read_address(struct address *to, struct sock_common *socket, int remote)
{
	if (socket->skc_family == AF_INET)
		set_ipv4(to, remote ? socket->skc_daddr : socket->skc_rcv_saddr);
	else if (remote)
		BPF_CORE_READ_INTO(to, socket, skc_v6_daddr);
	else
		BPF_CORE_READ_INTO(to, socket, skc_v6_rcv_saddr);
}

/*
 * A connection that the application has not accepted yet: it has no socket that
 * could be tagged, so its addresses are remembered. The socket that accept()
 * will return has the request's cookie.
 */
static __always_inline void remember_request(struct bpf_iter__tcp *ctx, struct sock_common *socket)
{
	struct flow_key key = {};
	struct flow flow = { .why = FLOW_BEFORE };

	key.netns_cookie = socket->skc_net.net->net_cookie;
	read_address(&key.local, socket, 0);
	read_address(&key.remote, socket, 1);
	key.local_port = bpf_htons(socket->skc_num);
	key.remote_port = socket->skc_dport;
	flow.socket_cookie = bpf_get_socket_cookie(socket);
	bpf_map_update_elem(&flows, &key, &flow, BPF_ANY);
	report(ctx);
}

static __always_inline int mark(struct tcp_sock *tcp, __u32 mark)
{
	return bpf_setsockopt(tcp, SOL_SOCKET, SO_MARK, &mark, sizeof(mark));
}

/* A connection's socket, of which the data plane or the agent knows nothing yet. */
static __always_inline struct tcp_sock *application(struct sock_common *socket)
{
	struct tcp_sock *tcp;

	if (socket->skc_state == TCP_LISTEN || socket->skc_state == TCP_CLOSE)
		return NULL;
	tcp = bpf_skc_to_tcp_sock(socket);
	if (!tcp || bpf_sk_storage_get(&sockets, tcp, 0, 0))
		return NULL;
	return tcp;
}

static __always_inline void exempt(struct bpf_iter__tcp *ctx, struct tcp_sock *tcp)
{
	struct socket_tag tag = { .role = ROLE_BEFORE };

	if (!bpf_sk_storage_get(&sockets, tcp, &tag, BPF_SK_STORAGE_GET_F_CREATE))
		return;
	mark(tcp, MARK_DIRECT);
	report(ctx);
}

/* Before the guard is in force: everything that is there may go on. */
SEC("iter/tcp")
int exempt_present(struct bpf_iter__tcp *ctx)
{
	struct sock_common *socket = ctx->sk_common;
	struct tcp_sock *tcp;

	if (!socket)
		return 0;
	if (socket->skc_state == TCP_NEW_SYN_RECV) {
		remember_request(ctx, socket);
		return 0;
	}
	tcp = application(socket);
	if (tcp)
		exempt(ctx, tcp);
	return 0;
}

/*
 * After it: what was established between the first walk and the guard. One that
 * is still opening may be new, and is left to the guard.
 */
SEC("iter/tcp")
int exempt_late(struct bpf_iter__tcp *ctx)
{
	struct sock_common *socket = ctx->sk_common;
	struct tcp_sock *tcp;

	if (!socket || socket->skc_state == TCP_NEW_SYN_RECV || socket->skc_state == TCP_SYN_SENT)
		return 0;
	tcp = application(socket);
	if (tcp)
		exempt(ctx, tcp);
	return 0;
}

/* At the end: the application's sockets that the proxy still carries, whose routes have to stay. */
SEC("iter/tcp")
int mark_carried(struct bpf_iter__tcp *ctx)
{
	struct sock_common *socket = ctx->sk_common;
	struct tcp_sock *tcp;

	if (!socket || socket->skc_state == TCP_NEW_SYN_RECV)
		return 0;
	tcp = application(socket);
	if (!tcp || tcp->inet_conn.icsk_inet.sk.sk_mark == MARK_DIRECT)
		return 0;
	if (!mark(tcp, MARK_CARRIED))
		report(ctx);
	return 0;
}

char _license[] SEC("license") = "GPL";
