import { MeltemiError, messageOf } from "../../domain/error.js";
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

  /**
   * Undefined where there is none. Throws `bad_input` where it is not one: the node then starts without, and the file is
   * kept beside as `PATH.unreadable`, for whoever wants to know, until the next such.
   */
  async load(): Promise<LastGood | undefined> {
    const bytes = await this.files.readIfPresent(this.path);
    if (bytes === undefined) return undefined;
    try {
      return decode(bytes.toString("utf8"));
    } catch (cause) {
      throw await this.#setAside(bytes, cause);
    }
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

  async #setAside(bytes: Buffer, cause: unknown): Promise<MeltemiError> {
    const aside = `${this.path}.unreadable`;
    let hint = `the node starts without it; it is kept as ${aside}`;
    try {
      await this.files.writeAtomic(aside, bytes);
      await this.files.remove(this.path);
    } catch (error) {
      hint = `the node starts without it; it could not be set aside: ${messageOf(error)}`;
    }
    return new MeltemiError("bad_input", `${this.path} is not a last good state: ${messageOf(cause)}`, {
      hint,
      cause,
    });
  }
}

/** Throws where the text is not one in every part: half of a state is none. */
function decode(text: string): LastGood {
  const value: unknown = JSON.parse(text);
  if (!isFileShape(value))
    throw new MeltemiError("bad_input", "it has another shape, or is of another version");
  const parse =
    (type: typeof addressType | typeof authorizationType) =>
    (encoded: string): RelayedResource =>
      RelayedResource.parse(type, Buffer.from(encoded, "base64"));
  return {
    resources: [
      ...value.authorizations.map(parse(authorizationType)),
      ...value.addresses.map(parse(addressType)),
    ],
    negative: value.negative,
    savedAtMs: value.saved_at_ms,
  };
}
