import type { Sysctls } from "./originals.js";
import type { HasFamily } from "./answer-routing.js";

const switchOf = (name: string): string => `net/ipv6/conf/${name}/disable_ipv6`;

/** IPv4 always is; IPv6 where the kernel was built and started with it. */
export function inKernel(access: Sysctls): HasFamily {
  return async (netns, family) => {
    if (family === "4") return true;
    const [present] = await access.readNetnsSysctls(netns.fd, [switchOf("all")]);
    return typeof present === "string";
  };
}

/** Whether lo takes routes of the family: where IPv6 is switched off there, no packet of it comes through lo either. */
export function onLoopback(access: Sysctls): HasFamily {
  return async (netns, family) => {
    if (family === "4") return true;
    const [disabled] = await access.readNetnsSysctls(netns.fd, [switchOf("lo")]);
    return disabled === "0";
  };
}
