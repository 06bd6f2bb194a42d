import { familyOf } from "../ip.js";
import type { Problem } from "../problem.js";
import { selects, selectorText } from "../selector.js";
import { useWaypoint, waypointWish } from "../use-waypoint.js";
import { problemOf, type Inventory } from "./inventory.js";

/** A service that selects no pod answers nobody, unless its endpoints are listed. */
export function unselectiveServices(inventory: Inventory): Problem[] {
  const problems: Problem[] = [];
  const listed = new Set(
    inventory.all("EndpointSlice").map((slice) => `${slice.meta.namespace}/${slice.serviceName}`),
  );
  for (const service of inventory.all("Service")) {
    if (!service.selector || listed.has(`${service.meta.namespace}/${service.meta.name}`)) continue;
    const pods = inventory.podsBehind(service);
    if (pods.length === 0) {
      const value = selectorText(service.selector);
      const message = "selects no pod: the service has no endpoint";
      const hint = `compare it with the labels of the pods in namespace ${service.meta.namespace}`;
      problems.push(problemOf(service, "warning", "spec.selector", { value, message, hint }));
      continue;
    }
    service.ports.forEach(({ targetPort, protocol }, index) => {
      if (typeof targetPort !== "string") return;
      const known = pods.flatMap((pod) =>
        pod.ports.filter((port) => port.protocol === protocol).map(({ name }) => name),
      );
      if (known.includes(targetPort)) return;
      const names = [...new Set(known.filter((name) => name !== undefined))];
      const hint =
        names.length > 0
          ? `they have: ${names.join(", ")}`
          : "name the containers' ports, or write the number";
      const message = "is a port that no selected pod has: the service has no endpoint on this port";
      problems.push(
        problemOf(service, "warning", `spec.ports[${index}].targetPort`, {
          value: targetPort,
          message,
          hint,
        }),
      );
    });
  }
  return problems;
}

/** A service that is offered in a family in which none of its pods has an address. */
export function familiesWithoutPods(inventory: Inventory): Problem[] {
  const problems: Problem[] = [];
  for (const service of inventory.all("Service")) {
    const pods = inventory.podsBehind(service).filter(({ ips }) => ips.length > 0);
    if (pods.length === 0) continue;
    const stated = service.ipFamilies.length > 0 ? service.ipFamilies : service.clusterIps.map(familyOf);
    const lacking = stated.filter(
      (family) => !pods.some(({ ips }) => ips.some((ip) => familyOf(ip) === family)),
    );
    for (const family of lacking) {
      const all = service.ipFamilies.length > 0 && lacking.length === service.ipFamilies.length;
      const message = all
        ? "is a family in which no selected pod has an address: the service has no endpoint"
        : "is a family in which no selected pod has an address: only clients that have the other one, too, are served";
      const path = service.ipFamilies.length > 0 ? "spec.ipFamilies" : "spec.clusterIPs";
      const hint = `give the pods ${family} addresses (status.podIPs), or leave the family out`;
      problems.push(problemOf(service, "warning", path, { value: family, message, hint }));
    }
  }
  return problems;
}

/** Endpoints of a service that is not there reach nobody. */
export function orphanedSlices(inventory: Inventory): Problem[] {
  return inventory
    .all("EndpointSlice")
    .filter(
      (slice) =>
        slice.serviceName !== "" && !inventory.find("Service", slice.meta.namespace, slice.serviceName),
    )
    .map((slice) =>
      problemOf(slice, "warning", 'metadata.labels["kubernetes.io/service-name"]', {
        value: slice.serviceName,
        message: `names a Service that is not in namespace ${slice.meta.namespace}`,
        hint: "add the Service, or correct the label",
      }),
    );
}

/** A ServiceEntry whose selector finds no workload. */
export function unselectiveEntries(inventory: Inventory): Problem[] {
  const problems: Problem[] = [];
  for (const entry of inventory.all("ServiceEntry")) {
    const { workloadSelector } = entry;
    if (!workloadSelector) continue;
    const { namespace } = entry.meta;
    const found =
      inventory.podsIn(namespace, workloadSelector).length > 0 ||
      inventory
        .all("WorkloadEntry")
        .some(
          (workload) =>
            workload.meta.namespace === namespace && selects(workloadSelector, workload.spec.labels),
        );
    if (found) continue;
    const value = selectorText(workloadSelector);
    const message = "selects no Pod and no WorkloadEntry: the service has no endpoint";
    problems.push(problemOf(entry, "warning", "spec.workloadSelector", { value, message }));
  }
  return problems;
}

/** A waypoint that is asked for and is not there: what is to pass it is refused until it is. */
export function wantedWaypoints(inventory: Inventory): Problem[] {
  const objects = [
    ...inventory.all("Namespace"),
    ...inventory.all("Service"),
    ...inventory.all("ServiceAccount"),
    ...inventory.all("Pod"),
    ...inventory.all("ServiceEntry"),
    ...inventory.all("WorkloadEntry"),
  ];
  return objects.flatMap((object) => {
    const own = object.kind === "Namespace" ? object.meta.name : object.meta.namespace;
    const wish = waypointWish(object.meta.labels, own);
    if (!wish || wish.none) return [];
    const { namespace, name: value } = wish;
    if (inventory.find("Gateway", namespace, value)) return [];
    return [
      problemOf(object, "warning", `metadata.labels["${useWaypoint}"]`, {
        value,
        message: `there is no Gateway ${namespace}/${value}: connections that are to pass it are refused`,
        hint: "add the Gateway (gatewayClassName: meltemi-waypoint), or remove the label",
      }),
    ];
  });
}
