import { isDeepStrictEqual } from "node:util";
import { objectKey, type ObjectKey } from "../../domain/ids.js";
import type { MeshKind, MeshObject } from "../../domain/objects.js";
import type { Problem } from "../../domain/problem.js";
import type { SourceEvent } from "../../domain/source-event.js";
import { decodeObject, type Decoded } from "../decode/decode.js";
import { isMapping, type Mapping } from "../decode/fields.js";
import type { CollectionSink } from "./list-watch.js";
import { prune } from "./prune.js";
import { apiVersionOf, type Resource } from "./resources.js";

export interface KindListener {
  /** In their order, as one change. */
  told(events: readonly SourceEvent[]): void;
  problemsChanged(): void;
  /** The kind has been listed, or is known not to be installed. */
  settled(): void;
}

/** An object as it came, decoded at once: what the API sent is not kept. */
export interface Item {
  readonly key: ObjectKey;
  readonly decoded: Decoded;
}

function keyOf(kind: MeshKind, value: Mapping): ObjectKey {
  const metadata = isMapping(value["metadata"]) ? value["metadata"] : {};
  const { namespace, name } = metadata;
  return objectKey(
    kind,
    typeof namespace === "string" ? namespace : "",
    typeof name === "string" ? name : "",
  );
}

/**
 * The objects of one kind as they were told, and those that were refused. What is refused changes nothing: the object's
 * last good form stays until a good one comes or it is deleted. What decodes to the same is no change.
 */
export class KindState implements CollectionSink<Item> {
  readonly #told = new Map<ObjectKey, MeshObject>();
  readonly #problems = new Map<ObjectKey, readonly Problem[]>();

  constructor(
    private readonly resource: Resource,
    /** What stands as the problems' location. */
    private readonly cluster: string,
    private readonly listener: KindListener,
  ) {}

  get size(): number {
    return this.#told.size;
  }

  get problems(): Iterable<readonly Problem[]> {
    return this.#problems.values();
  }

  reduce(object: Mapping, version: string): Item {
    const { kind } = this.resource;
    const pruned = prune(object, apiVersionOf(this.resource, version), kind);
    return { key: keyOf(kind, object), decoded: decodeObject(pruned, { origin: "cluster" }) };
  }

  replaced(items: readonly Item[]): void {
    const events: SourceEvent[] = [];
    const present = new Map(items.map((item) => [item.key, item]));
    for (const key of new Set([...this.#told.keys(), ...this.#problems.keys()]))
      if (!present.has(key)) this.#forget(key, events);
    for (const item of present.values()) this.#take(item, events);
    this.#tell(events);
    this.listener.settled();
  }

  applied(item: Item): void {
    const events: SourceEvent[] = [];
    this.#take(item, events);
    this.#tell(events);
  }

  removed(object: Mapping): void {
    const events: SourceEvent[] = [];
    this.#forget(keyOf(this.resource.kind, object), events);
    this.#tell(events);
  }

  absent(): void {
    this.replaced([]);
  }

  #tell(events: readonly SourceEvent[]): void {
    if (events.length > 0) this.listener.told(events);
  }

  #take({ key, decoded }: Item, events: SourceEvent[]): void {
    this.#note(key, decoded.problems);
    if (decoded.outcome !== "understood") return;
    const before = this.#told.get(key);
    if (before !== undefined && isDeepStrictEqual(before, decoded.object)) return;
    this.#told.set(key, decoded.object);
    events.push({ type: "apply", object: decoded.object });
  }

  #forget(key: ObjectKey, events: SourceEvent[]): void {
    this.#note(key, []);
    const before = this.#told.get(key);
    if (before === undefined) return;
    this.#told.delete(key);
    const { namespace, name } = before.meta;
    events.push({ type: "remove", kind: before.kind, namespace, name });
  }

  #note(key: ObjectKey, problems: readonly Problem[]): void {
    const located = problems.map((problem) => ({ ...problem, location: this.cluster }));
    const before = this.#problems.get(key);
    if (before === undefined ? located.length === 0 : isDeepStrictEqual(before, located)) return;
    if (located.length === 0) this.#problems.delete(key);
    else this.#problems.set(key, located);
    this.listener.problemsChanged();
  }
}
