import type { Mesh } from "../model/mesh.js";
import type { CompiledWorkload } from "./compiled.js";

const nowhere: CompiledWorkload["locality"] = { region: "", zone: "", subzone: "" };

export function localityOfNode(mesh: Mesh, nodeName: string | undefined): CompiledWorkload["locality"] {
  const node = nodeName === undefined ? undefined : mesh.nodes.get("", nodeName);
  return node ? { region: node.region, zone: node.zone, subzone: node.subzone } : nowhere;
}

/** `REGION/ZONE/SUBZONE`, the latter parts optional. */
export function splitLocality(text: string): CompiledWorkload["locality"] {
  const [region = "", zone = "", subzone = ""] = text.split("/");
  return { region, zone, subzone };
}
