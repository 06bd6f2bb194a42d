/** The CA's keys in Secrets of a cluster: those that somebody plugged in (`cacerts`), or our own, made when there are none. */
import { createHash } from "node:crypto";
import { z } from "zod";
import { MeltemiError, messageOf } from "../domain/error.js";
import type { Clock } from "../platform/clock.js";
import { hasStatus, type KubeApi } from "../platform/kube-api.js";
import type { Logger } from "../platform/logger.js";
import { generateIssuing, generateRoot } from "./key-generation.js";
import { checkKeyMaterial, type KeyFiles, type KeyMaterial } from "./key-material.js";
import type { KeySource } from "./key-source.js";
import type { ModeRepair } from "./private-files.js";
import type { RotationState } from "./rotation.js";

export interface SecretKeysOptions {
  readonly api: KubeApi;
  /** The mesh's own namespace. */
  readonly namespace: string;
  readonly trustDomain: string;
  readonly clock: Pick<Clock, "now">;
  readonly log: Logger;
  /** This process's notes of what it issued. */
  readonly ledgerPath: string;
}

/** Our own keys; `cacerts`, where it exists, comes before them. */
export const ownSecret = "meltemi-ca";
export const pluggedSecret = "cacerts";
/** Which keys are in force and since when, one answer for all replicas. */
export const stateMap: string = "meltemi-ca-state";
/** Of its life, when our own issuing certificate is replaced. */
const renewIssuingAtFraction = 2 / 3;
const mostTries = 10;

const secretShape = z.object({
  metadata: z.object({ resourceVersion: z.string() }),
  data: z.record(z.string(), z.string()).nullish(),
});
const stateShape = z.object({
  metadata: z.object({ resourceVersion: z.string() }),
  data: z.object({
    fingerprint: z.string(),
    version: z.coerce.number().int(),
    since: z.string(),
    /** The Secret that they are of; older versions wrote none. */
    secret: z.string().optional(),
  }),
});

interface Found {
  readonly name: string;
  readonly resourceVersion: string;
  readonly files: KeyFiles;
  readonly material: KeyMaterial;
}

interface Keys {
  readonly material: KeyMaterial;
  /** The Secret that they are of. */
  readonly name: string;
  readonly fingerprint: string;
  readonly version: number;
  readonly sinceMs: number;
}

/** What the ConfigMap says. */
interface State extends Omit<Keys, "material" | "name"> {
  readonly name: string | undefined;
  readonly resourceVersion: string;
}

export class SecretKeys implements KeySource {
  readonly writable = false;
  readonly replaceHint =
    "replace the Secret cacerts (first both roots in root-cert.pem, later the new pair): every replica takes it by itself";
  readonly repairs: ModeRepair[] = [];

  private constructor(
    private readonly options: SecretKeysOptions,
    private keys: Keys,
  ) {}

  /** Reads the keys, or makes them. @throws MeltemiError naming the Secret and what is wrong with it, or where the API server does not answer */
  static async open(options: SecretKeysOptions): Promise<SecretKeys> {
    return new SecretKeys(options, await readKeys(options, undefined));
  }

  /**
   * Reads the Secrets again; our own issuing key is replaced when it ages. True when the keys are others now: the
   * authority is to be told. @throws as `open`; what was read before stays in force
   */
  async refresh(): Promise<boolean> {
    const keys = await readKeys(this.options, this.keys);
    if (keys.version === this.keys.version && keys.fingerprint === this.keys.fingerprint) return false;
    this.keys = keys;
    return true;
  }

  get ledgerPath(): string {
    return this.options.ledgerPath;
  }

  openRotation(): RotationState {
    const { version, sinceMs } = this.keys;
    return { phase: "stable", version, issuer: version, sinceMs };
  }

  readGeneration(): KeyMaterial {
    return this.keys.material;
  }

  addGeneration(): number {
    throw new MeltemiError("unsupported", "keys in a Secret are replaced there", { hint: this.replaceHint });
  }

  commit(): void {
    throw new MeltemiError("unsupported", "keys in a Secret are replaced there", { hint: this.replaceHint });
  }

  refused(): Set<string> {
    return new Set();
  }

  saveRefused(): void {
    throw new MeltemiError("unsupported", "identities cannot be refused by command on a cluster", {
      hint: "delete the pods of the service account, or take them out of the mesh: they get no further certificates",
    });
  }
}

const secretPath = (namespace: string, name = ""): string =>
  `/api/v1/namespaces/${namespace}/secrets${name && `/${name}`}`;

async function readKeys(options: SecretKeysOptions, inForce: Keys | undefined): Promise<Keys> {
  const { api, clock, log, namespace } = options;
  for (let attempt = 0; attempt < mostTries; attempt++) {
    // Before the Secrets: what others note meanwhile is then a conflict, and is read again.
    const state = await readState(api, statePath(namespace), log);
    const found = await readPluggedOrOwn(options);
    if (found?.name !== pluggedSecret && (state?.name ?? inForce?.name) === pluggedSecret)
      throw pluggedGone(namespace, inForce !== undefined);
    if (found === undefined) {
      await makeOwn(options, inForce === undefined);
      continue;
    }
    if (found.name === ownSecret && isAgeing(found.material, clock.now())) {
      log.info("issuing key ages and is replaced", { secret: found.name });
      await renewOwn(options, found);
      continue;
    }
    const noted = await noteState(options, found, state);
    if (noted !== undefined) return { material: found.material, ...noted };
  }
  throw new MeltemiError("unavailable", "the CA's keys are being changed by others all the time", {
    hint: `look who writes the Secrets ${pluggedSecret} and ${ownSecret} in ${options.namespace}`,
  });
}

/** Our own keys are another root, which no node has been told of: they take the place of plugged ones only on purpose. */
function pluggedGone(namespace: string, isRunning: boolean): MeltemiError {
  const fate = isRunning
    ? "its keys stay in force"
    : `and ${ownSecret} does not take its place by itself: that is another root`;
  return new MeltemiError("not_found", `Secret ${namespace}/${pluggedSecret} is gone; ${fate}`, {
    hint: `restore it; to go back to ${ownSecret} on purpose, delete ConfigMap ${namespace}/${stateMap} and restart the control plane`,
  });
}

function fingerprintOf({ roots, issuing, chain }: KeyMaterial): string {
  const all = [...roots, issuing, ...chain].map((one) => one.fingerprint256);
  return createHash("sha256").update(all.join()).digest("hex");
}

function isAgeing({ issuing, rootKey }: KeyMaterial, nowMs: number): boolean {
  const from = Date.parse(issuing.validFrom);
  return (
    rootKey !== undefined && nowMs >= from + (Date.parse(issuing.validTo) - from) * renewIssuingAtFraction
  );
}

async function readSecret(options: SecretKeysOptions, name: string): Promise<Found | undefined> {
  const { api, clock, namespace } = options;
  let answer: unknown;
  try {
    answer = await api.call({ method: "GET", path: secretPath(namespace, name) });
  } catch (error) {
    if (hasStatus(error, 404)) return undefined;
    throw error;
  }
  const { metadata, data } = secretShape.parse(answer);
  const text = (...keys: readonly string[]): string | undefined => {
    const value = keys.map((key) => data?.[key]).find((one) => one !== undefined && one !== "");
    return value === undefined ? undefined : Buffer.from(value, "base64").toString("utf8");
  };
  const where = `Secret ${namespace}/${name}`;
  const need = (...keys: readonly string[]): string => {
    const value = text(...keys);
    if (value !== undefined) return value;
    throw new MeltemiError("bad_input", `${where} has no ${keys.join(" and no ")}`, {
      hint: "root-cert.pem, ca-cert.pem, ca-key.pem and cert-chain.pem as Istio has them, or ca.crt, tls.crt and tls.key as cert-manager writes them",
    });
  };
  // The second names are those of a Secret of type kubernetes.io/tls.
  const files: KeyFiles = {
    "root-cert.pem": need("root-cert.pem", "ca.crt"),
    "ca-cert.pem": need("ca-cert.pem", "tls.crt"),
    "ca-key.pem": need("ca-key.pem", "tls.key"),
    "cert-chain.pem": text("cert-chain.pem", "tls.crt"),
    "root-key.pem": text("root-key.pem"),
  };
  const material = checkKeyMaterial(files, where, clock.now());
  return { name, resourceVersion: metadata.resourceVersion, files, material };
}

const statePath = (namespace: string, name = stateMap): string =>
  `/api/v1/namespaces/${namespace}/configmaps${name && `/${name}`}`;

function secretBody(namespace: string, files: KeyFiles, resourceVersion?: string): object {
  const data = Object.fromEntries(
    Object.entries(files as unknown as Record<string, string | undefined>).flatMap(([key, value]) =>
      value === undefined ? [] : [[key, Buffer.from(value).toString("base64")]],
    ),
  );
  return {
    apiVersion: "v1",
    kind: "Secret",
    metadata: {
      name: ownSecret,
      namespace,
      labels: { "app.kubernetes.io/managed-by": "meltemi" },
      ...(resourceVersion !== undefined && { resourceVersion }),
    },
    type: "Opaque",
    data,
  };
}

async function readPluggedOrOwn(options: SecretKeysOptions): Promise<Found | undefined> {
  return (await readSecret(options, pluggedSecret)) ?? (await readSecret(options, ownSecret));
}

/**
 * Makes the first keys. Of several replicas that try, one succeeds; the others read what it made. Keys that were there
 * and are gone are not replaced by new ones, which no running node would trust.
 */
async function makeOwn(options: SecretKeysOptions, mayMake: boolean): Promise<void> {
  const { api, clock, log, namespace, trustDomain } = options;
  const known = !mayMake || (await readState(api, statePath(namespace), log)) !== undefined;
  // Another replica may have made both since we looked.
  if (known && (await readPluggedOrOwn(options)) !== undefined) return;
  if (known) {
    throw new MeltemiError("not_found", `Secret ${namespace}/${ownSecret} is gone, with the CA's keys`, {
      hint: `restore it; to begin with a new root instead, delete ConfigMap ${namespace}/${stateMap} and restart the control plane`,
    });
  }
  const body = secretBody(namespace, generateRoot(trustDomain, clock.now()));
  await writeUnlessTaken(
    () => api.call({ method: "POST", path: secretPath(namespace), body }),
    () => log.info("root made", { secret: `${namespace}/${ownSecret}` }),
  );
}

async function renewOwn(options: SecretKeysOptions, found: Found): Promise<void> {
  const { api, clock, namespace, trustDomain } = options;
  const { roots, rootKey } = found.material;
  const root = roots.find((one) => rootKey !== undefined && one.checkPrivateKey(rootKey));
  if (root === undefined || rootKey === undefined)
    throw new MeltemiError("internal", "an issuing key without a root's key ages");
  const made = generateIssuing(trustDomain, root, rootKey, clock.now());
  // The bundle of trusted roots stays as it is.
  const files = { ...made, "root-cert.pem": found.files["root-cert.pem"] };
  const body = secretBody(namespace, files, found.resourceVersion);
  await writeUnlessTaken(() => api.call({ method: "PUT", path: secretPath(namespace, ownSecret), body }));
}

async function writeUnlessTaken(
  write: () => Promise<unknown>,
  onWritten = (): void => undefined,
): Promise<void> {
  try {
    await write();
    onWritten();
  } catch (error) {
    if (!hasStatus(error, 409)) throw error;
  }
}

/** The version of these keys: the one noted for them, or the next; undefined where another replica noted something meanwhile. */
async function noteState(
  { api, clock, namespace }: SecretKeysOptions,
  { name, material }: Found,
  before: State | undefined,
): Promise<Omit<Keys, "material"> | undefined> {
  const fingerprint = fingerprintOf(material);
  const isSame = before?.fingerprint === fingerprint;
  const next = {
    name,
    fingerprint,
    version: isSame ? before.version : (before?.version ?? 0) + 1,
    sinceMs: isSame ? before.sinceMs : clock.now(),
  };
  if (isSame && before.name === name) return next;
  const body = {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: {
      name: stateMap,
      namespace,
      labels: { "app.kubernetes.io/managed-by": "meltemi" },
      ...(before !== undefined && { resourceVersion: before.resourceVersion }),
    },
    data: {
      fingerprint,
      version: String(next.version),
      since: new Date(next.sinceMs).toISOString(),
      secret: name,
    },
  };
  try {
    if (before === undefined) await api.call({ method: "POST", path: statePath(namespace, ""), body });
    else await api.call({ method: "PUT", path: statePath(namespace), body });
    return next;
  } catch (error) {
    if (hasStatus(error, 409)) return undefined;
    throw error;
  }
}

async function readState(api: KubeApi, path: string, log: Logger): Promise<State | undefined> {
  let answer: unknown;
  try {
    answer = await api.call({ method: "GET", path });
  } catch (error) {
    if (hasStatus(error, 404)) return undefined;
    throw error;
  }
  const parsed = stateShape.safeParse(answer);
  if (!parsed.success) {
    log.error("state of the CA is damaged", { configmap: stateMap, error: messageOf(parsed.error) });
    throw new MeltemiError("bad_input", `ConfigMap ${stateMap} is damaged`, {
      hint: "delete it: it is made anew, and all certificates are renewed once",
    });
  }
  const { metadata, data } = parsed.data;
  return {
    resourceVersion: metadata.resourceVersion,
    name: data.secret,
    fingerprint: data.fingerprint,
    version: data.version,
    sinceMs: Date.parse(data.since),
  };
}
