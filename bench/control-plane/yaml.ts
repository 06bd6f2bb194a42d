/** The same world as the YAML that a person or a cluster's dump would have, one file for each namespace. */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { MeshObject } from "../../src/domain/objects.js";
import { worldObjects, type WorldSize } from "./world.js";

function labels(map: ReadonlyMap<string, string>, indent: string): string {
  return [...map].map(([key, value]) => `${indent}${key}: "${value}"\n`).join("");
}

function documentOf(object: MeshObject): string {
  const { namespace, name } = object.meta;
  const head = `metadata:\n  name: ${name}\n${namespace === "" ? "" : `  namespace: ${namespace}\n`}`;
  const marked = object.meta.labels.size > 0 ? `  labels:\n${labels(object.meta.labels, "    ")}` : "";
  switch (object.kind) {
    case "Namespace":
      return `apiVersion: v1\nkind: Namespace\n${head}${marked}`;
    case "Service":
      return (
        `apiVersion: v1\nkind: Service\n${head}spec:\n  clusterIP: ${object.clusterIps[0] ?? "None"}\n` +
        `  selector:\n${labels(object.selector ?? new Map<string, string>(), "    ")}` +
        `  ports:\n    - name: http\n      port: 80\n      targetPort: http\n`
      );
    case "Pod":
      return (
        `apiVersion: v1\nkind: Pod\n${head}${marked}  ownerReferences:\n    - apiVersion: apps/v1\n      kind: ReplicaSet\n` +
        `      name: ${object.owner?.name ?? ""}\n      uid: "1"\n      controller: true\n` +
        `spec:\n  nodeName: ${object.nodeName ?? ""}\n  serviceAccountName: ${object.serviceAccount}\n` +
        `  containers:\n    - name: app\n      image: app\n      ports:\n        - name: http\n          containerPort: 8080\n` +
        `status:\n  phase: Running\n  podIP: ${object.ips[0] ?? ""}\n`
      );
    default:
      throw new Error(`the world has no ${object.kind}`);
  }
}

export async function writeWorld(size: WorldSize, directory: string): Promise<void> {
  await mkdir(directory, { recursive: true });
  const files = new Map<string, string[]>();
  for (const object of worldObjects(size)) {
    const file = object.meta.namespace || object.meta.name;
    const documents = files.get(file) ?? [];
    documents.push(documentOf(object));
    files.set(file, documents);
  }
  for (const [file, documents] of files)
    await writeFile(join(directory, `${file}.yaml`), documents.join("---\n"));
}
