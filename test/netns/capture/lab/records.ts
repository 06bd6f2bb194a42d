/** The data planes' access records: what they carried, and for whom they took it. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { eventually } from "../../../helpers/eventually.js";

export interface AccessRecord {
  readonly direction: "inbound" | "outbound";
  readonly protocol: "hbone" | "tcp";
  readonly src_addr: string;
  readonly dst_addr: string;
  readonly src_identity?: string;
  readonly message: string;
  readonly reason?: string;
}

export class Records {
  /** How long a record may take to be written. */
  patienceMs = 10_000;

  /** @param state the mesh's state directory */
  constructor(private readonly state: string) {}

  all(node: string): AccessRecord[] {
    let text: string;
    try {
      text = readFileSync(join(this.state, "nodes", node, "logs", "proxy.log"), "utf8");
    } catch {
      return [];
    }
    return text
      .split("\n")
      .filter((line) => line.startsWith("{") && line.endsWith("}"))
      .map((line) => JSON.parse(line) as AccessRecord & { scope?: string })
      .filter(({ scope }) => scope === "access");
  }

  /** The record of one connection, known by its client's address and port. It is written when the connection ends. */
  of(node: string, direction: AccessRecord["direction"], source: string): Promise<AccessRecord> {
    return eventually(
      `an ${direction} record on ${node} of ${source}`,
      () => this.all(node).find((record) => record.direction === direction && record.src_addr === source),
      this.patienceMs,
    );
  }

  /** The first inbound record after that many, to that address. A tunnel's has the client's address, not its port. */
  inboundTo(node: string, after: number, destination: string): Promise<AccessRecord> {
    return eventually(
      `an inbound record on ${node} to ${destination}`,
      () =>
        this.all(node)
          .slice(after)
          .find((record) => record.direction === "inbound" && record.dst_addr === destination),
      this.patienceMs,
    );
  }

  /** Whether the data plane has seen that connection at all. Only to be asked once a later one is recorded. */
  has(node: string, source: string): boolean {
    return this.all(node).some(({ src_addr: address }) => address === source);
  }
}
