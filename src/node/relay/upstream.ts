import { MeltemiError } from "../../domain/error.js";
import type { Files } from "../../platform/files.js";
import { tlsUpstream, type Upstream } from "../../xds/client.js";

/** Where the control plane is and how the node proves itself to it. */
export interface ControlPlane {
  /** `https://HOST:PORT` or `unix:PATH`. */
  readonly address: string;
  /** PEM bundle of trusted roots; read at every connect, because a root rotation replaces it. */
  readonly rootFile: string;
  /** The node's bearer token; read at every connect. */
  readonly tokenFile: string;
  readonly clusterId: string;
}

/** The gRPC target, and the name that the server's certificate must have where the target does not say it. */
export function parseControlPlane(address: string): {
  readonly target: string;
  readonly serverName?: string;
} {
  if (address.startsWith("unix:")) {
    const path = address.slice("unix:".length).replace(/^\/\/(?=\/)/, "");
    if (!path.startsWith("/")) throw wrongAddress(address);
    return { target: `unix:${path}`, serverName: "localhost" };
  }
  let url: URL;
  try {
    url = new URL(address);
  } catch {
    throw wrongAddress(address);
  }
  if (url.protocol !== "https:" || url.hostname === "" || !["", "/"].includes(url.pathname))
    throw wrongAddress(address);
  return { target: `dns:${url.hostname}:${url.port === "" ? "443" : url.port}` };
}

function wrongAddress(address: string): MeltemiError {
  return new MeltemiError("bad_input", `"${address}" is not the address of a control plane`, {
    hint: "expected https://HOST:PORT or unix:/PATH",
  });
}

/** What is needed for one connection, with the files as they are now. Throws `not_found` or `system` naming the file. */
export async function connectUpstream(files: Files, controlPlane: ControlPlane): Promise<Upstream> {
  const [roots, token] = await Promise.all([
    files.read(controlPlane.rootFile),
    files.read(controlPlane.tokenFile),
  ]);
  return tlsUpstream({
    ...parseControlPlane(controlPlane.address),
    roots,
    caller: { token: token.toString("utf8").trim() },
    clusterId: controlPlane.clusterId,
  });
}
