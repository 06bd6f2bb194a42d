import { MeltemiError } from "../../domain/error.js";
import type { Clock } from "../../platform/clock.js";
import type { Files } from "../../platform/files.js";
import { RelayedResource } from "../../xds/relayed-resource.js";
import { addressType, authorizationType } from "../../xds/resource.js";

/**
 * The last good state: what the data plane has taken, on disk, so that a node without its control plane
 * starts with what it knew. One file, replaced as a whole.
 */
export interface LastGood {
  readonly resources: readonly RelayedResource[];
  /** Names of addresses that have no object, by an explicit answer. */
  readonly negative: readonly string[];
  /** Milliseconds since the epoch. */
  readonly savedAtMs: number;
}

interface FileShape {
  readonly version: 1;
  readonly saved_at_ms: number;
  /** Serialized `Resource` messages in base64. */
  readonly addresses: readonly string[];
  readonly authorizations: readonly string[];
  readonly negative: readonly string[];
}

const isTexts = (value: unknown): value is readonly string[] =>
  Array.isArray(value) && value.every((entry) => typeof entry === "string");

function isFileShape(value: unknown): value is FileShape {
  const shape = value as Partial<Record<keyof FileShape, unknown>> | null;
  return (
    typeof shape === "object" &&
    shape?.version === 1 &&
    typeof shape.saved_at_ms === "number" &&
    isTexts(shape.addresses) &&
    isTexts(shape.authorizations) &&
    isTexts(shape.negative)
  );
}

export class LastGoodFile {
  constructor(
    private readonly files: Files,
    private readonly clock: Clock,
    private readonly path: string,
  ) {}

  /** Undefined where there is none. Throws `bad_input` where it is not one: the node then starts without. */
  async load(): Promise<LastGood | undefined> {
    const bytes = await this.files.readIfPresent(this.path);
    if (bytes === undefined) return undefined;
    let value: unknown;
    try {
      value = JSON.parse(bytes.toString("utf8"));
    } catch (cause) {
      throw this.#unreadable(cause);
    }
    if (!isFileShape(value)) throw this.#unreadable();
    const parse =
      (type: typeof addressType | typeof authorizationType) =>
      (text: string): RelayedResource =>
        RelayedResource.parse(type, Buffer.from(text, "base64"));
    return {
      resources: [
        ...value.authorizations.map(parse(authorizationType)),
        ...value.addresses.map(parse(addressType)),
      ],
      negative: value.negative,
      savedAtMs: value.saved_at_ms,
    };
  }

  async save(resources: Iterable<RelayedResource>, negative: Iterable<string>): Promise<void> {
    const addresses: string[] = [];
    const authorizations: string[] = [];
    for (const resource of resources) {
      (resource.type === authorizationType ? authorizations : addresses).push(
        resource.bytes.toString("base64"),
      );
    }
    const content: FileShape = {
      version: 1,
      saved_at_ms: this.clock.now(),
      addresses,
      authorizations,
      negative: [...negative],
    };
    await this.files.writeAtomic(this.path, JSON.stringify(content));
  }

  #unreadable(cause?: unknown): MeltemiError {
    return new MeltemiError("bad_input", `${this.path} is not a last good state`, {
      hint: "the node starts without it; remove the file to silence this",
      cause,
    });
  }
}
