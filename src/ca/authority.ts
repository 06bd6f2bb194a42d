/** The CA: signs workload and server certificates and carries a root rotation through its phases. */
import { generateKeyPairSync, X509Certificate } from "node:crypto";
import { MeltemiError } from "../domain/error.js";
import { spiffeId, type Identity } from "../domain/identity.js";
import type { Clock } from "../platform/clock.js";
import type { Logger } from "../platform/logger.js";
import {
  buildCertificate,
  privateKeyPem,
  publicKeyDer,
  toPem,
  type AltName,
  type CertificateIssuer,
} from "./certificate.js";
import type { CertificateRequest } from "./csr.js";
import { issuerOf } from "./issuer-name.js";
import { clockSkewMs, generateIssuing, generateRoot, randomSerial } from "./key-generation.js";
import type { KeyMaterial } from "./key-material.js";
import type { KeySource } from "./key-source.js";
import { Ledger, type LedgerEntry } from "./ledger.js";
import {
  step,
  trustedGenerations,
  type RotationEvent,
  type RotationState,
  type RotationTiming,
} from "./rotation.js";

export interface AuthorityOptions {
  readonly trustDomain: string;
  readonly keys: KeySource;
  readonly clock: Pick<Clock, "now">;
  readonly log: Logger;
  /** Longest and default lifetime of a workload certificate. */
  readonly certificateTtlMs: number;
  readonly rotation: RotationTiming;
  /** Whether a certificate is still in use: its node hosts a pod of the identity. */
  readonly inUse: (entry: LedgerEntry) => boolean;
}

export interface IssuedCertificate {
  /** PEM: leaf, then what leads to the root, without it. */
  readonly chain: readonly string[];
  /** PEM: all trusted roots in one text. */
  readonly roots: string;
  readonly serial: string;
  readonly notAfterMs: number;
  readonly version: number;
}

/** What nodes are told: which roots to trust, and which certificates to renew early. */
export interface TrustBundle {
  readonly trustDomain: string;
  readonly version: number;
  readonly roots: readonly string[];
  /** Certificates whose notBefore is at or before this are of an earlier version. */
  readonly renewNotBeforeUntilMs: number;
  readonly spreadMs: number;
}

/** The last third of its life: time for a new issuing key. */
const renewIssuingAtFraction = 2 / 3;

export class Authority {
  readonly #options: AuthorityOptions;
  readonly #ledger: Ledger;
  readonly #skewMs: number;
  readonly #listeners = new Set<() => void>();
  #state: RotationState;
  #material: ReadonlyMap<number, KeyMaterial>;
  #issuer: CertificateIssuer;
  #rootsPem: readonly string[];
  /** What follows each leaf, as text. */
  #chainPem: readonly string[];
  #refused: Set<string>;
  #clearSinceMs: number | undefined;
  #issuedCount = 0;

  /** Opens the keys. Throws with the file's name when they are missing, damaged, mismatched or expired. */
  constructor(options: AuthorityOptions) {
    this.#options = options;
    const now = options.clock.now();
    this.#skewMs = Math.min(clockSkewMs, options.certificateTtlMs / 10);
    this.#state = options.keys.openRotation(options.trustDomain, now);
    this.#material = this.#readMaterial();
    this.#issuer = this.#readIssuer();
    this.#rootsPem = this.#readRoots();
    this.#chainPem = this.#readChain();
    this.#refused = options.keys.refused();
    this.#ledger = new Ledger(options.keys.ledgerPath, now);
    for (const repair of options.keys.repairs) {
      options.log.warn("mode of a CA file was too wide and was narrowed", { ...repair });
    }
  }

  #readMaterial(): Map<number, KeyMaterial> {
    const now = this.#options.clock.now();
    return new Map(
      trustedGenerations(this.#state).map((number) => [
        number,
        this.#options.keys.readGeneration(number, now),
      ]),
    );
  }

  #materialOf(generation: number): KeyMaterial {
    const found = this.#material.get(generation);
    if (!found) throw new MeltemiError("internal", `CA generation ${generation} is not loaded`);
    return found;
  }

  #readIssuer(): CertificateIssuer {
    const { issuing, issuingKey } = this.#materialOf(this.#state.issuer);
    return issuerOf(issuing, issuingKey);
  }

  /** The issuer's root first, each once. */
  #readRoots(): string[] {
    const order = [this.#state.issuer, ...trustedGenerations(this.#state)];
    return [
      ...new Set(order.flatMap((number) => this.#materialOf(number).roots.map((root) => root.toString()))),
    ];
  }

  #readChain(): string[] {
    return this.#materialOf(this.#state.issuer).chain.map((one) => one.toString());
  }

  get trustDomain(): string {
    return this.#options.trustDomain;
  }

  get state(): RotationState {
    return this.#state;
  }

  /** Calls back after each change of the trust bundle; returns how to stop. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  trustBundle(): TrustBundle {
    const live = this.#ledger.size;
    return {
      trustDomain: this.#options.trustDomain,
      version: this.#state.version,
      roots: this.#rootsPem,
      renewNotBeforeUntilMs: Math.floor((this.#state.sinceMs - this.#skewMs) / 1000) * 1000,
      // About 500 renewals a second, a quarter of what one core signs.
      spreadMs: live <= 50 ? 0 : live * 2,
    };
  }

  /** All trusted roots in one PEM text. */
  rootsPem(): string {
    return this.#rootsPem.join("");
  }

  /**
   * Signs a workload certificate with exactly one name, the identity's. The caller has checked who
   * asks. `validityMs` 0 or less means the longest. Throws `forbidden` for an identity on the
   * refused list, `system` when the issue cannot be noted.
   */
  issueWorkload(
    node: string,
    identity: Identity,
    request: CertificateRequest,
    validityMs: number,
  ): IssuedCertificate {
    const id = spiffeId(identity);
    if (this.#refused.has(id)) {
      throw new MeltemiError("forbidden", `${id} is refused new certificates`, {
        hint: "an operator can allow it: POST /ca/allow",
      });
    }
    const now = this.#options.clock.now();
    const ttlMs =
      validityMs > 0 ? Math.min(validityMs, this.#options.certificateTtlMs) : this.#options.certificateTtlMs;
    const issued = this.#sign({ type: "workload" }, [{ type: "uri", value: id }], request.publicKey, ttlMs);
    this.#ledger.record(
      { node, identity: id, serial: issued.serial, version: issued.version, notAfterMs: issued.notAfterMs },
      now,
    );
    this.#issuedCount += 1;
    return issued;
  }

  /** A new key and certificate for the control plane's own listener. */
  issueServer(altNames: readonly AltName[]): IssuedCertificate & { readonly key: string } {
    const { privateKey } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
    const issued = this.#sign(
      { type: "server" },
      altNames,
      publicKeyDer(privateKey),
      this.#options.certificateTtlMs,
    );
    return { ...issued, key: privateKeyPem(privateKey) };
  }

  #sign(
    role: { type: "workload" | "server" },
    altNames: readonly AltName[],
    publicKey: Uint8Array,
    ttlMs: number,
  ): IssuedCertificate {
    const now = this.#options.clock.now();
    const { issuing } = this.#materialOf(this.#state.issuer);
    const issuerEndMs = Date.parse(issuing.validTo);
    if (issuerEndMs <= now) {
      throw new MeltemiError(
        "unavailable",
        `the issuing certificate expired at ${new Date(issuerEndMs).toISOString()}`,
        {
          hint: "rotate it: meltemi ca rotate issuing",
        },
      );
    }
    const serial = randomSerial();
    const notAfterMs = Math.min(now + ttlMs, issuerEndMs);
    const template = {
      role,
      subject: undefined,
      altNames,
      publicKey,
      serial,
      notBeforeMs: now - this.#skewMs,
      notAfterMs,
    };
    return {
      chain: [toPem("CERTIFICATE", buildCertificate(template, this.#issuer)), ...this.#chainPem],
      roots: this.rootsPem(),
      serial: serial.toString("hex"),
      notAfterMs: Math.floor(notAfterMs / 1000) * 1000,
      version: this.#state.version,
    };
  }

  /** Certificates of an earlier version that are still in use: a rotation waits for them. */
  waiting(): LedgerEntry[] {
    if (this.#state.phase === "stable") return [];
    const { version } = this.#state;
    return this.#ledger
      .live(this.#options.clock.now())
      .filter((entry) => entry.version < version && this.#options.inUse(entry));
  }

  /** Starts a rotation. Throws `conflict` while one is under way, `unsupported` for keys given from outside. */
  startRotation(what: "root" | "issuing"): void {
    if (this.#state.phase !== "stable") {
      throw new MeltemiError("conflict", `a rotation is under way (${this.#state.phase})`, {
        hint: "wait for it (meltemi ca status), or go on without those that are waited for: meltemi ca rotate root --advance",
      });
    }
    const now = this.#options.clock.now();
    const { roots, rootKey } = this.#materialOf(this.#state.issuer);
    const [root] = roots;
    if (!this.#options.keys.writable || !rootKey || !root) {
      throw new MeltemiError(
        "unsupported",
        "the CA's keys were given from outside, so that it cannot make new ones",
        {
          hint:
            this.#options.keys.replaceHint ??
            "put new files into --ca-dir (first both roots in root-cert.pem, later the new pair) and restart the control plane each time",
        },
      );
    }
    const { trustDomain, keys } = this.#options;
    const files =
      what === "root" ? generateRoot(trustDomain, now) : generateIssuing(trustDomain, root, rootKey, now);
    this.#apply({ type: "start", next: keys.addGeneration(files), sameRoot: what === "issuing" });
  }

  /** Goes on to the next phase without waiting. Throws `conflict` when no rotation is under way. */
  advance(): void {
    if (this.#state.phase === "stable") throw new MeltemiError("conflict", "no rotation is under way");
    this.#apply({ type: "advance" });
  }

  /** To be called about once a second: ends phases, and replaces an ageing issuing key. */
  tick(): void {
    const now = this.#options.clock.now();
    if (this.#state.phase === "stable") {
      this.#clearSinceMs = undefined;
      const { issuing, rootKey } = this.#materialOf(this.#state.issuer);
      const from = Date.parse(issuing.validFrom);
      const dueMs = from + (Date.parse(issuing.validTo) - from) * renewIssuingAtFraction;
      if (this.#options.keys.writable && rootKey && now >= dueMs) this.startRotation("issuing");
      return;
    }
    if (this.waiting().length > 0) this.#clearSinceMs = undefined;
    else this.#clearSinceMs ??= now;
    this.#apply({ type: "tick", clearSinceMs: this.#clearSinceMs });
  }

  #apply(event: RotationEvent): void {
    const { clock, keys, rotation } = this.#options;
    const before = this.#state;
    const after = step(before, event, clock.now(), rotation);
    if (after === before) return;
    keys.commit(after);
    this.#take(after);
  }

  /** The key source holds other keys than before (KeySource of a cluster's Secret): they are in force from now on. */
  reload(): void {
    const { clock, keys, trustDomain } = this.#options;
    this.#take(keys.openRotation(trustDomain, clock.now()));
  }

  #take(after: RotationState): void {
    const { log } = this.#options;
    this.#state = after;
    this.#material = this.#readMaterial();
    this.#issuer = this.#readIssuer();
    this.#rootsPem = this.#readRoots();
    this.#chainPem = this.#readChain();
    this.#clearSinceMs = undefined;
    log.info("trust bundle changed", {
      phase: after.phase,
      version: after.version,
      roots: this.#rootsPem.length,
    });
    for (const listener of this.#listeners) listener();
  }

  /** No more certificates for this identity: those issued end with their lifetime. */
  refuse(identity: Identity): void {
    this.#refused.add(spiffeId(identity));
    this.#options.keys.saveRefused(this.#refused);
  }

  allow(identity: Identity): void {
    this.#refused.delete(spiffeId(identity));
    this.#options.keys.saveRefused(this.#refused);
  }

  /** For the admin page. */
  describe(): AuthorityStatus {
    const describeOne = (one: X509Certificate): CertificateSummary => ({
      subject: one.subject.replaceAll("\n", ", "),
      serial: one.serialNumber.toLowerCase(),
      not_before: new Date(one.validFrom).toISOString(),
      not_after: new Date(one.validTo).toISOString(),
    });
    return {
      trust_domain: this.#options.trustDomain,
      version: this.#state.version,
      phase: this.#state.phase,
      since: new Date(this.#state.sinceMs).toISOString(),
      roots: this.#rootsPem.map((pem) => describeOne(new X509Certificate(pem))),
      issuing: describeOne(this.#materialOf(this.#state.issuer).issuing),
      waiting: this.waiting().map(({ node, identity, version, notAfterMs }) => ({
        node,
        identity,
        version,
        not_after: new Date(notAfterMs).toISOString(),
      })),
      live: this.#ledger.live(this.#options.clock.now()).length,
      issued: this.#issuedCount,
      refused_identities: [...this.#refused].sort(),
    };
  }

  close(): void {
    this.#ledger.close();
  }
}

export interface CertificateSummary {
  readonly subject: string;
  readonly serial: string;
  readonly not_before: string;
  readonly not_after: string;
}

export interface AuthorityStatus {
  readonly trust_domain: string;
  readonly version: number;
  readonly phase: RotationState["phase"];
  readonly since: string;
  readonly roots: readonly CertificateSummary[];
  readonly issuing: CertificateSummary;
  readonly waiting: readonly {
    readonly node: string;
    readonly identity: string;
    readonly version: number;
    readonly not_after: string;
  }[];
  /** Certificates that have not expired. */
  readonly live: number;
  /** Since the process started. */
  readonly issued: number;
  readonly refused_identities: readonly string[];
}
