/** The containers' privileges, listed once in daemonset/ (docs/adr/0025-least-privilege.md). */
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { MeltemiError } from "../domain/error.js";

const shape = z.object({ securityContext: z.record(z.string(), z.unknown()) });

export type ContainerProfile = z.infer<typeof shape>;

/** `daemonset/` of this build, from its sources or from dist/. */
function profilesDirectory(): string {
  const here = dirname(fileURLToPath(import.meta.url));
  const found = ["../..", "../../.."]
    .map((up) => join(here, up, "daemonset"))
    .find((path) => existsSync(path));
  if (found !== undefined) return found;
  throw new MeltemiError("not_found", "daemonset/ is not beside this program", {
    hint: "it belongs to the build: install the whole of it",
  });
}

export function readProfile(name: "agent" | "data-plane"): ContainerProfile {
  return shape.parse(JSON.parse(readFileSync(join(profilesDirectory(), `${name}.json`), "utf8")));
}

/** The seccomp profiles by their path below the kubelet's `seccomp`: `meltemi/agent.json`. */
export function seccompProfiles(): ReadonlyMap<string, Buffer> {
  const directory = join(profilesDirectory(), "seccomp", "meltemi");
  const names = readdirSync(directory).filter((name) => name.endsWith(".json"));
  return new Map(names.map((name) => [`meltemi/${name}`, readFileSync(join(directory, name))]));
}
