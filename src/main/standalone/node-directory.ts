import { join } from "node:path";

/** A node's own run directory below standalone's. */
export const nodeRunDir = (runDir: string, node: string): string => join(runDir, "nodes", node);
