/** `ca status`, `ca rotate`, `ca refuse`, `ca allow`. */
import type { z } from "zod";
import { ask, controlPlaneOf, tell } from "./ask.js";
import type { Target } from "./run-directory.js";
import { caShape } from "./shapes.js";
import { orDash } from "./table.js";
import type { View } from "./view.js";

type CaStatus = z.infer<typeof caShape>;

function caView(status: CaStatus, notes: readonly string[]): View {
  const certificate = (kind: string, one: CaStatus["issuing"]): string[] => [
    kind,
    one.subject,
    one.serial.slice(0, 16),
    one.not_after,
  ];
  return {
    data: status,
    sections: [
      {
        title: `Trust domain ${status.trust_domain}, version ${status.version}, ${status.phase} since ${status.since}, ${status.live} certificates in use`,
        columns: ["kind", "subject", "serial", "valid until"].map((heading) => ({ heading })),
        rows: [
          ...status.roots.map((root) => certificate("root", root)),
          certificate("issuing", status.issuing),
        ],
        empty: "",
      },
      ...(status.waiting.length === 0
        ? []
        : [
            {
              title: "Waiting for these to be renewed",
              columns: ["node", "identity", "version", "expires"].map((heading) => ({ heading })),
              rows: status.waiting.map((one) => [
                one.node,
                one.identity,
                String(one.version),
                orDash(one.not_after),
              ]),
              empty: "",
            },
          ]),
      ...(status.refused_identities.length === 0
        ? []
        : [
            {
              title: "Refused new certificates",
              columns: [{ heading: "identity" }],
              rows: status.refused_identities.map((identity) => [identity]),
              empty: "",
            },
          ]),
    ],
    notes,
  };
}

export async function caStatusView(target: Target): Promise<View> {
  return caView(await ask(controlPlaneOf(target).admin, "/ca", caShape), []);
}

export async function caRotate(target: Target, what: "root" | "issuing", advance: boolean): Promise<View> {
  const status = await tell(
    controlPlaneOf(target).control,
    "/ca/rotate",
    { what, ...(advance ? { advance } : {}) },
    caShape,
  );
  return caView(status, ["the rotation goes on by itself; follow it with: meltemi ca status"]);
}

export async function caDecide(
  target: Target,
  decision: "refuse" | "allow",
  identity: string,
): Promise<View> {
  const status = await tell(controlPlaneOf(target).control, `/ca/${decision}`, { identity }, caShape);
  const note =
    decision === "refuse"
      ? "certificates issued before end with their lifetime; rotate the root to end them sooner"
      : "the node asks again by itself";
  return caView(status, [note]);
}
