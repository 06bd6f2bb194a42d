import { z } from "zod";
import { MeltemiError, messageOf } from "../../domain/error.js";
import type { Files } from "../../platform/files.js";
import type { ApiAccess } from "./chain.js";

const path = z.string().startsWith("/", "expected an absolute path, as the plugin sees it");

const shape = z.strictObject({
  server: z
    .string()
    .regex(/^([\d.]+|\[[\da-fA-F:.]+\]):\d{1,5}$/, "expected ADDRESS:PORT, with an IP address"),
  serverName: z.string().min(1).optional(),
  caFile: path,
  tokenFile: path,
  timeoutMs: z.number().int().min(1).max(10_000).optional(),
});

/** Reads the file of `--cni-kubernetes`. @throws MeltemiError naming file and field */
export async function readApiAccess(files: Files, file: string): Promise<ApiAccess> {
  const text = (await files.read(file)).toString("utf8");
  try {
    return shape.parse(JSON.parse(text));
  } catch (error) {
    const problem =
      error instanceof z.ZodError
        ? error.issues.map((issue) => `${issue.path.join(".") || "file"}: ${issue.message}`).join("; ")
        : messageOf(error);
    throw new MeltemiError("bad_input", `${file}: ${problem}`, {
      hint: "docs/cni.md lists the fields of --cni-kubernetes",
    });
  }
}
