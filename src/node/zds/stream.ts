import { MeltemiError } from "../../domain/error.js";
import type { Clock } from "../../platform/clock.js";
import { receivePacket, type PacketPeer } from "../packets.js";
import { decodeAck, decodeHello, encodeRequest, maxPacketBytes, type Request } from "./messages.js";
import type { TableEntry, WorkloadTable } from "./table.js";

export interface StreamDependencies {
  readonly table: WorkloadTable;
  readonly clock: Clock;
  readonly ackTimeoutMs: number;
  readonly closeFd: (fd: number) => void;
}

/** Where the data plane stands with one pod. */
interface Told {
  readonly entry: TableEntry;
  /** Empty: serving. */
  readonly error: string;
}

/**
 * One data plane's connection:
 *
 *   hello -> telling (add ... add) -> SnapshotSent -> live (add | del)*
 *
 * One request is under way at a time. The stream never queues: after each answer it compares the table
 * with what it has told and sends the next difference, so that a pod that came and went meanwhile costs nothing.
 */
export class ZdsStream {
  readonly #told = new Map<string, Told>();
  #greeted = false;
  #live = false;
  #closed = false;
  #wake: (() => void) | undefined;
  #reading: Promise<Buffer | null> | undefined;
  /** Whether the read under way has come to its end. */
  #arrived = false;

  constructor(
    private readonly connection: PacketPeer,
    private readonly dependencies: StreamDependencies,
  ) {}

  get pid(): number {
    return this.connection.peer.pid;
  }

  /** True once it has said hello: a connection that has not is nobody to wait for. */
  get greeted(): boolean {
    return this.#greeted;
  }

  /** True once the data plane has acknowledged the whole snapshot. */
  get live(): boolean {
    return this.#live && !this.#closed;
  }

  /** The data plane's answer about an entry; undefined while it has not been asked. */
  answer(entry: TableEntry): { readonly error: string } | undefined {
    const told = this.#told.get(entry.pod.uid);
    return told?.entry === entry ? told : undefined;
  }

  /** Whether the data plane may still serve something under that uid. */
  tells(uid: string): boolean {
    return this.#told.has(uid);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.connection.close();
    this.#wake?.();
  }

  /** Serves the connection until either side closes it. Rejects with what the data plane did wrong. */
  async run(): Promise<void> {
    const unsubscribe = this.dependencies.table.subscribe(() => this.#wake?.());
    try {
      const hello = await this.#answer();
      if (hello === null) return;
      decodeHello(hello);
      this.#greeted = true;
      while (!this.#closed) {
        const step = this.#next();
        if (step === undefined) await this.#change();
        else if (!(await this.#tell(step))) return;
      }
    } finally {
      unsubscribe();
      this.close();
      this.dependencies.table.changed();
    }
  }

  #next(): { request: Request; entry?: TableEntry } | undefined {
    const { entries } = this.dependencies.table;
    for (const [uid, { entry }] of this.#told) {
      if (entries.get(uid) !== entry) return { request: { type: "del", uid } };
    }
    for (const [uid, entry] of entries) {
      if (!this.#told.has(uid)) return { request: { type: "add", uid, info: entry.pod.info }, entry };
    }
    return this.#live ? undefined : { request: { type: "snapshot_sent" } };
  }

  /** False when the data plane has gone. */
  async #tell({ request, entry }: { request: Request; entry?: TableEntry }): Promise<boolean> {
    await this.connection.send(encodeRequest(request), entry === undefined ? [] : [entry.pod.netnsFd]);
    const answer = await this.#answer();
    if (answer === null) return false;
    const error = decodeAck(answer);
    switch (request.type) {
      case "add":
        if (entry !== undefined) this.#told.set(request.uid, { entry, error });
        break;
      case "del":
        this.#told.delete(request.uid);
        break;
      case "snapshot_sent":
        if (error !== "")
          throw new MeltemiError("unavailable", `the data plane refuses the snapshot: ${error}`);
        this.#live = true;
    }
    this.dependencies.table.changed();
    return true;
  }

  /** Waits for the table to change. Between requests a data plane says nothing: all that may come is its end. */
  async #change(): Promise<void> {
    const reading = this.#packet();
    if (!this.#arrived) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
    if (!this.#arrived) return;
    if ((await reading) === null) this.close();
    else throw new MeltemiError("bad_input", "the data plane has sent a message that answers nothing");
  }

  /**
   * The next packet. At most one read is under way; one that idleness began is the next answer's, which
   * may have come before it is awaited: only `#answer` takes it off.
   */
  #packet(): Promise<Buffer | null> {
    if (this.#reading === undefined) {
      this.#arrived = false;
      this.#reading = this.#read().finally(() => {
        this.#arrived = true;
        this.#wake?.();
      });
      // Its failure is for whoever awaits it, and for nobody once the stream has ended.
      this.#reading.catch(() => undefined);
    }
    return this.#reading;
  }

  async #read(): Promise<Buffer | null> {
    const packet = await receivePacket(this.connection, maxPacketBytes);
    if (packet === null) return null;
    for (const fd of packet.fds) this.dependencies.closeFd(fd);
    if (packet.fds.length > 0)
      throw new MeltemiError("bad_input", "the data plane has sent a descriptor where none belongs");
    return packet.data;
  }

  async #answer(): Promise<Buffer | null> {
    const { clock, ackTimeoutMs } = this.dependencies;
    let cancel = (): void => undefined;
    const late = new Promise<never>((_, reject) => {
      cancel = clock.schedule(ackTimeoutMs, () =>
        reject(new MeltemiError("unavailable", `the data plane has not answered within ${ackTimeoutMs} ms`)),
      );
    });
    try {
      return await Promise.race([this.#packet(), late]);
    } finally {
      cancel();
      this.#reading = undefined;
    }
  }
}
