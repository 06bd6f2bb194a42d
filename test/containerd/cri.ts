/** A client of the container runtime interface (runtime.v1), as far as sandboxes go; messages by their field numbers. */
import { BinaryReader, BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { Client, credentials } from "@grpc/grpc-js";

export interface SandboxConfig {
  readonly name: string;
  readonly uid: string;
  readonly namespace: string;
  readonly attempt: number;
  readonly cgroupParent: string;
}

type Write = (writer: BinaryWriter) => void;

const message = (field: number, write: Write): Write => {
  return (writer) => {
    write(writer.tag(field, WireType.LengthDelimited).fork());
    writer.join();
  };
};
const text = (field: number, value: string): Write => {
  return (writer) => void writer.tag(field, WireType.LengthDelimited).string(value);
};
const integer = (field: number, value: number): Write => {
  return (writer) => void writer.tag(field, WireType.Varint).uint32(value);
};
const all = (...writes: readonly Write[]): Write => {
  return (writer) => writes.forEach((write) => write(writer));
};

/** Fields of a message by number: text or bytes of those with a length, in their order. */
function fields(bytes: Uint8Array): ReadonlyMap<number, readonly Uint8Array[]> {
  const found = new Map<number, Uint8Array[]>();
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) {
    const [number, type] = reader.tag();
    if (type === WireType.LengthDelimited) found.set(number, [...(found.get(number) ?? []), reader.bytes()]);
    else reader.skip(type, number);
  }
  return found;
}

const string = (bytes: Uint8Array | undefined): string => Buffer.from(bytes ?? []).toString("utf8");

export class Cri {
  readonly #client: Client;

  constructor(socket: string) {
    this.#client = new Client(`unix:${socket}`, credentials.createInsecure());
  }

  close(): void {
    this.#client.close();
  }

  /** Conditions that do not hold, as `TYPE: message`; empty when runtime and network are ready. */
  async notReady(): Promise<readonly string[]> {
    const [status] = fields(await this.#call("Status", () => undefined)).get(1) ?? [];
    const conditions = fields(status ?? new Uint8Array()).get(1) ?? [];
    return conditions
      .filter((one) => {
        // `status` (2) is a bool, which is left out where it is false.
        const reader = new BinaryReader(one);
        let holds = false;
        while (reader.pos < reader.len) {
          const [number, type] = reader.tag();
          if (number === 2 && type === WireType.Varint) holds = reader.bool();
          else reader.skip(type, number);
        }
        return !holds;
      })
      .map((one) => `${string(fields(one).get(1)?.[0])}: ${string(fields(one).get(4)?.[0])}`);
  }

  /** Resolves with the sandbox's id. */
  async run({ name, uid, namespace, attempt, cgroupParent }: SandboxConfig): Promise<string> {
    const metadata = message(1, all(text(1, name), text(2, uid), text(3, namespace), integer(4, attempt)));
    const linux = message(8, text(1, cgroupParent));
    const answer = await this.#call("RunPodSandbox", message(1, all(metadata, linux)));
    return string(fields(answer).get(1)?.[0]);
  }

  /** The sandbox's address and the path of its network namespace. */
  async sandbox(id: string): Promise<{ readonly ip: string; readonly netns: string }> {
    const answer = fields(
      await this.#call(
        "PodSandboxStatus",
        all(text(1, id), (writer) => void writer.tag(2, WireType.Varint).bool(true)),
      ),
    );
    const network = fields(answer.get(1)?.[0] ?? new Uint8Array()).get(5)?.[0];
    const info = (answer.get(2) ?? []).map((entry) => fields(entry));
    const verbose = info.find((entry) => string(entry.get(1)?.[0]) === "info")?.get(2)?.[0];
    const { runtimeSpec } = JSON.parse(string(verbose)) as {
      runtimeSpec: { linux: { namespaces: { type: string; path?: string }[] } };
    };
    const netns = runtimeSpec.linux.namespaces.find(({ type }) => type === "network")?.path ?? "";
    return { ip: string(fields(network ?? new Uint8Array()).get(1)?.[0]), netns };
  }

  async stop(id: string): Promise<void> {
    await this.#call("StopPodSandbox", text(1, id));
  }

  async remove(id: string): Promise<void> {
    await this.#call("RemovePodSandbox", text(1, id));
  }

  #call(method: string, write: Write): Promise<Uint8Array> {
    const writer = new BinaryWriter();
    write(writer);
    return new Promise((resolve, reject) => {
      this.#client.makeUnaryRequest(
        `/runtime.v1.RuntimeService/${method}`,
        (bytes: Uint8Array) => Buffer.from(bytes),
        (bytes: Buffer) => new Uint8Array(bytes),
        writer.finish(),
        { deadline: Date.now() + 120_000 },
        (error, answer) => {
          if (error !== null) reject(error);
          else resolve(answer ?? new Uint8Array());
        },
      );
    });
  }
}
