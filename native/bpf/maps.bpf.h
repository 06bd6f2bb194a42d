/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The node's maps. All are pinned, and shared by every program of the node. */
#ifndef MELTEMI_MAPS_BPF_H
#define MELTEMI_MAPS_BPF_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"

/*
 * Registered sockets. What a registered listener accepts is registered with it
 * (CLONE); the entry goes with its socket, so nothing is ever stale.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct socket_tag);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

/* An update replaces the whole value: a packet sees all of it or none. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4 * MAX_PODS);
	__type(key, struct place);
	__type(value, struct settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_PODS);
	__type(key, __u64);
	__type(value, struct counters);
} counters SEC(".maps");

static __always_inline void count(const struct settings *pod, enum direction direction,
				  enum reason reason)
{
	struct counters *mine = bpf_map_lookup_elem(&counters, &pod->netns_cookie);

	if (mine)
		mine->packets[direction][reason]++;
}

#endif
