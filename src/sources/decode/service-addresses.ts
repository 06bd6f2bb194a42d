import { familyOf } from "../../domain/ip.js";
import type { IpFamily, ServiceObject } from "../../domain/objects.js";
import type { Fields } from "./fields.js";
import { present, readHostIp } from "./shared.js";

const families: readonly IpFamily[] = ["IPv4", "IPv6"];
const policies = ["SingleStack", "PreferDualStack", "RequireDualStack"] as const;

type Addresses = Pick<ServiceObject, "clusterIps" | "headless" | "ipFamilies">;

interface Written {
  readonly value: string;
  readonly path: string;
}

/** `clusterIPs`, whose first is also `clusterIP`. */
function readWritten(spec: Fields): readonly Written[] {
  const single = spec.string("clusterIP");
  const listed = spec.strings("clusterIPs");
  const first = listed[0];
  if (!first) return single ? [{ value: single, path: spec.at("clusterIP") }] : [];
  if (single !== undefined && single !== "" && single !== first.value) {
    spec.report.error(spec.at("clusterIP"), {
      value: single,
      message: "is not the first of clusterIPs",
      hint: `write ${first.value}, or leave one of the two out`,
    });
  }
  return listed;
}

/** At most one address of each family. */
function readClusterIps(spec: Fields, written: readonly Written[]): readonly string[] {
  const owners = new Map<IpFamily, string>();
  const ips = written.map(({ value, path }) => {
    const ip = readHostIp(spec.report, path, value);
    if (ip === undefined) return undefined;
    const other = owners.get(familyOf(ip));
    if (other !== undefined) {
      const message = `is a second ${familyOf(ip)} address beside ${other}`;
      spec.report.error(path, { value, message, hint: "a service has at most one address of each family" });
      return undefined;
    }
    owners.set(familyOf(ip), ip);
    return ip;
  });
  return present(ips);
}

function readFamilies(spec: Fields): readonly IpFamily[] {
  const read = spec.strings("ipFamilies").map(({ value, path }, index, all) => {
    const family = families.find((one) => one === value);
    const twice = all.slice(0, index).some((one) => one.value === value);
    if (family && !twice) return family;
    const message = family ? "is listed twice" : "is not an address family";
    spec.report.error(path, { value, message, hint: "IPv4, IPv6, or both, the primary one first" });
    return undefined;
  });
  return present(read);
}

/** A family that is listed beside an address of the same place is the address's. */
function checkOrder(spec: Fields, clusterIps: readonly string[], listed: readonly IpFamily[]): void {
  clusterIps.forEach((ip, index) => {
    const family = listed[index];
    if (listed.length === 0 || family === familyOf(ip)) return;
    spec.report.error(`${spec.at("ipFamilies")}${family ? `[${index}]` : ""}`, {
      ...(family && { value: family }),
      message: family
        ? `is not the family of ${ip}, the address in its place`
        : `does not list the family of ${ip}`,
      hint: "list the families in the order of the addresses",
    });
  });
}

/**
 * The families that a service is offered in, as the API server fills them in: what is listed, else those
 * of its addresses, and both where `ipFamilyPolicy` requires both. Nothing that limits them: any.
 */
function familiesOf(
  spec: Fields,
  clusterIps: readonly string[],
  listed: readonly IpFamily[],
): readonly IpFamily[] {
  const policy = spec.string("ipFamilyPolicy")
    ? spec.choice("ipFamilyPolicy", policies, "SingleStack")
    : undefined;
  const stated = listed.length > 0 ? listed : clusterIps.map(familyOf);
  switch (policy) {
    case "SingleStack":
      if (stated.length < 2) return stated;
      spec.report.error(spec.at("ipFamilyPolicy"), {
        value: policy,
        message: "contradicts the two families of the service",
        hint: "write PreferDualStack or RequireDualStack, or one family",
      });
      return stated;
    case "RequireDualStack":
      // A service with one address has endpoints of both families all the same.
      return stated.length === 1
        ? [...stated, ...families.filter((family) => !stated.includes(family))]
        : stated;
    case "PreferDualStack":
      return stated.length === 1 ? [] : stated;
    case undefined:
      return listed;
  }
}

/** The addresses of a service and their families; "None" means headless. */
export function readServiceAddresses(spec: Fields): Addresses {
  const written = readWritten(spec);
  const headless = written.some(({ value }) => value === "None");
  const clusterIps = headless ? [] : readClusterIps(spec, written);
  const listed = readFamilies(spec);
  checkOrder(spec, clusterIps, listed);
  return { clusterIps, headless, ipFamilies: familiesOf(spec, clusterIps, listed) };
}
