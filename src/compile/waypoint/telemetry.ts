/**
 * What Telemetry objects say for a waypoint, as Istio merges them: the mesh's (of the root namespace), then those of
 * its namespace, then those that target it. What a narrower one leaves open a broader one decides.
 */
import type { GatewayObject } from "../../domain/objects.js";
import type { AccessLogging, TelemetryObject } from "../../domain/telemetry.js";
import type { Mesh } from "../../model/mesh.js";
import { isWaypoint } from "../../domain/waypoint-class.js";
import type { StatusCondition } from "../compiled.js";
import type { Compiler } from "../compiler.js";
import type { CompileConfig } from "../config.js";

/** The oldest of those that fit counts, then the first by name: others of the same reach are left out, as in Istio. */
function oldest(objects: Iterable<TelemetryObject>): TelemetryObject | undefined {
  const key = ({ meta }: TelemetryObject): string => `${meta.createdAt ?? ""} ${meta.name}`;
  let first: TelemetryObject | undefined;
  for (const object of objects) if (!first || key(object) < key(first)) first = object;
  return first;
}

const isWide = ({ selects, targetRefs }: TelemetryObject): boolean => !selects && targetRefs.length === 0;

/** From the broadest to the narrowest. */
function inForce(mesh: Mesh, config: CompileConfig, { meta, className }: GatewayObject): TelemetryObject[] {
  const [root] = config.rootNamespaces;
  const within = (namespace: string, fits: (one: TelemetryObject) => boolean): TelemetryObject | undefined =>
    oldest([...mesh.telemetries.inNamespace(namespace)].filter(fits));
  const targeting =
    (kind: string, name: string) =>
    ({ targetRefs }: TelemetryObject): boolean =>
      targetRefs.some((target) => target.kind === kind && target.name === name);
  return [
    within(root, isWide),
    within(root, targeting("GatewayClass", className)),
    meta.namespace === root ? undefined : within(meta.namespace, isWide),
    within(meta.namespace, targeting("Gateway", meta.name)),
  ].filter((one) => one !== undefined);
}

/** Undefined where nothing is said. */
export function compileAccessLogging(
  mesh: Mesh,
  config: CompileConfig,
  gateway: GatewayObject,
): AccessLogging | undefined {
  return inForce(mesh, config, gateway).findLast((one) => one.accessLogging)?.accessLogging;
}

/** Whether a waypoint follows it. */
export function telemetryConditions(
  { mesh, config }: Compiler,
  object: TelemetryObject,
): readonly StatusCondition[] {
  const accepted: StatusCondition = {
    type: "Accepted",
    status: true,
    reason: "Accepted",
    message: "understood and taken",
  };
  const followers = [...mesh.gateways.all()]
    .filter((gateway) => isWaypoint(gateway) && inForce(mesh, config, gateway).includes(object))
    .map(({ meta }) => `${meta.namespace}/${meta.name}`)
    .sort();
  const programmed: StatusCondition =
    followers.length > 0
      ? {
          type: "Programmed",
          status: true,
          reason: "Programmed",
          message: `followed by ${followers.join(", ")}`,
        }
      : { type: "Programmed", status: false, reason: "NoWaypoint", message: "no waypoint follows it" };
  return [accepted, programmed];
}
