import {
  Version,
  WorkloadRequest,
  WorkloadResponse,
  ZdsHello,
} from "../../../src/gen/istio/workload/zds/zds.js";
import { loadNative, type PacketConnection } from "../../../src/platform/native.js";

export interface Told {
  readonly type: "add" | "del" | "keep" | "snapshot";
  readonly uid: string;
  readonly descriptors: number;
}

const hello = Buffer.from(ZdsHello.encode({ version: Version.V1 }).finish());

/** A data plane that speaks ZDS over a real socket, notes what it is told, and answers as it is made to. */
export class FakeDataPlane {
  readonly told: Told[] = [];
  /** Uids that it serves now. */
  readonly serving = new Set<string>();
  /** The error it answers an add with; empty: success. */
  refuse: (uid: string) => string = () => "";
  /** While it is set, no answer is given. */
  silent = false;
  /** Resolves when the agent has closed the connection, or `close` was called. */
  readonly ended: Promise<void>;
  readonly #connection: PacketConnection;

  private constructor(connection: PacketConnection) {
    this.#connection = connection;
    // A connection that the agent has closed fails in whatever was under way.
    this.ended = this.#serve().catch(() => undefined);
  }

  static async connect(
    path: string,
    options: { readonly hello?: Buffer; readonly refuse?: (uid: string) => string } = {},
  ): Promise<FakeDataPlane> {
    const connection = await loadNative().PacketConnection.connect(path);
    const dataPlane = new FakeDataPlane(connection);
    if (options.refuse !== undefined) dataPlane.refuse = options.refuse;
    await connection.send(options.hello ?? hello, []).catch(() => undefined);
    return dataPlane;
  }

  close(): void {
    this.#connection.close();
  }

  /** Sends bytes that nobody asked for. */
  send(data: Buffer, fds: readonly number[] = []): Promise<void> {
    return this.#connection.send(data, fds);
  }

  async #serve(): Promise<void> {
    for (;;) {
      const packet = await this.#connection.receive(1024);
      if (packet === null) return;
      for (const fd of packet.fds) loadNative().closeFd(fd);
      const { payload } = WorkloadRequest.decode(packet.data);
      const error = this.#note(payload, packet.fds.length);
      if (this.silent) continue;
      const answer = WorkloadResponse.encode({ payload: { $case: "ack", value: { error } } });
      await this.#connection.send(Buffer.from(answer.finish()), []);
    }
  }

  #note(payload: WorkloadRequest["payload"], descriptors: number): string {
    switch (payload?.$case) {
      case "add": {
        const error = this.refuse(payload.value.uid);
        if (error === "") this.serving.add(payload.value.uid);
        this.told.push({ type: "add", uid: payload.value.uid, descriptors });
        return error;
      }
      case "del":
        this.serving.delete(payload.value.uid);
        this.told.push({ type: "del", uid: payload.value.uid, descriptors });
        return "";
      case "keep":
        this.told.push({ type: "keep", uid: payload.value.uid, descriptors });
        return "";
      case "snapshotSent":
        this.told.push({ type: "snapshot", uid: "", descriptors });
        return "";
      case undefined:
        return "nothing in it";
    }
  }
}
