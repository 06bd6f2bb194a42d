import { X509Certificate } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { KubeApiDouble } from "../../test/helpers/kube-api-double.js";
import { RecordingLogger } from "../../test/helpers/recording-logger.js";
import { systemClock } from "../platform/clock.js";
import { Authority } from "./authority.js";
import { generateRoot } from "./key-generation.js";
import { SecretKeys } from "./secret-keys.js";

const secrets = "/api/v1/secrets";
const maps = "/api/v1/configmaps";
const dayMs = 86_400_000;

let double: KubeApiDouble;
let directory: string;
let nowMs: number;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), "meltemi-secret-keys-"));
  nowMs = systemClock.now();
  double = await KubeApiDouble.start();
  double.serve(secrets, maps);
});
afterEach(async () => {
  rmSync(directory, { recursive: true, force: true });
  await double.close();
});

const open = (replica = "a"): Promise<SecretKeys> =>
  SecretKeys.open({
    api: double.api,
    namespace: "meltemi-system",
    trustDomain: "cluster.local",
    clock: { now: () => nowMs },
    log: new RecordingLogger(),
    ledgerPath: join(directory, `${replica}.jsonl`),
  });

const authorityOf = (keys: SecretKeys): Authority =>
  new Authority({
    trustDomain: "cluster.local",
    keys,
    clock: { now: () => nowMs },
    log: new RecordingLogger(),
    certificateTtlMs: dayMs,
    rotation: { settleMs: 1, deadlineMs: dayMs },
    inUse: () => true,
  });

const plug = (name: string, data: Readonly<Record<string, string | undefined>>): void => {
  const encoded = Object.entries(data).flatMap(([key, value]) =>
    value === undefined ? [] : [[key, Buffer.from(value).toString("base64")] as const],
  );
  double.put(secrets, { metadata: { namespace: "meltemi-system", name }, data: Object.fromEntries(encoded) });
};

test("replicas that start at once have one root and one version", async () => {
  const replicas = await Promise.all(["a", "b", "c"].map((name) => open(name)));
  const bundles = replicas.map((keys) => authorityOf(keys).trustBundle());
  expect(new Set(bundles.map(({ roots }) => roots.join())).size).toBe(1);
  expect(new Set(bundles.map(({ version }) => version))).toEqual(new Set([1]));
  expect(new Set(bundles.map((bundle) => bundle.renewNotBeforeUntilMs)).size).toBe(1);
});

test("a restart changes nothing, so that no node renews", async () => {
  const before = authorityOf(await open()).trustBundle();
  nowMs += 5 * dayMs;
  expect(authorityOf(await open("later")).trustBundle()).toEqual(before);
});

test("plugged keys come before our own, in Istio's names and in cert-manager's", async () => {
  await open();
  const given = generateRoot("cluster.local", nowMs);
  plug("cacerts", { ...given });
  const keys = await open("b");
  expect(authorityOf(keys).trustBundle()).toMatchObject({ version: 2, roots: [given["root-cert.pem"]] });
  const others = generateRoot("cluster.local", nowMs);
  plug("cacerts", {
    "ca.crt": others["root-cert.pem"],
    "tls.crt": others["ca-cert.pem"],
    "tls.key": others["ca-key.pem"],
  });
  expect(await keys.refresh()).toBe(true);
  expect(authorityOf(keys).trustBundle()).toMatchObject({ version: 3, roots: [others["root-cert.pem"]] });
});

test("an authority takes new keys while it runs, and tells those who listen", async () => {
  const keys = await open();
  const authority = authorityOf(keys);
  let told = 0;
  authority.onChange(() => (told += 1));
  expect(await keys.refresh()).toBe(false);
  const given = generateRoot("cluster.local", nowMs);
  plug("cacerts", { ...given });
  expect(await keys.refresh()).toBe(true);
  authority.reload();
  expect(told).toBe(1);
  const { chain } = authority.issueServer([{ type: "dns", value: "meltemi" }]);
  const issuing = new X509Certificate(given["ca-cert.pem"]);
  expect(new X509Certificate(chain[0] ?? "").verify(issuing.publicKey)).toBe(true);
});

test("a broken Secret changes nothing that is in force", async () => {
  const keys = await open();
  const before = authorityOf(keys).trustBundle();
  const [one, two] = [generateRoot("cluster.local", nowMs), generateRoot("cluster.local", nowMs)];
  plug("cacerts", { ...one, "ca-key.pem": two["ca-key.pem"] });
  await expect(keys.refresh()).rejects.toThrow(
    /Secret meltemi-system\/cacerts\/ca-key.pem is not the key of Secret meltemi-system\/cacerts\/ca-cert.pem/,
  );
  plug("cacerts", { "root-cert.pem": one["root-cert.pem"] });
  await expect(keys.refresh()).rejects.toThrow(/cacerts has no ca-cert.pem and no tls.crt/);
  expect(authorityOf(keys).trustBundle()).toEqual(before);
});

test("keys that are gone are not replaced by new ones", async () => {
  const keys = await open();
  double.delete(secrets, "meltemi-system", "meltemi-ca");
  await expect(keys.refresh()).rejects.toThrow(/Secret meltemi-system\/meltemi-ca is gone/);
  await expect(open("b")).rejects.toThrow(/is gone, with the CA's keys/);
  double.delete(maps, "meltemi-system", "meltemi-ca-state");
  await expect(open("c")).resolves.toBeInstanceOf(SecretKeys);
});

test("our own issuing key is replaced under the same root when it ages", async () => {
  const keys = await open();
  const before = authorityOf(keys);
  const roots = before.rootsPem();
  nowMs += 250 * dayMs;
  expect(await keys.refresh()).toBe(true);
  before.reload();
  expect(before.rootsPem()).toBe(roots);
  expect(Date.parse(before.describe().issuing.not_after)).toBeGreaterThan(nowMs + 300 * dayMs);
  expect(before.trustBundle().version).toBe(2);
});

test("a person who asks for a rotation is told where these keys are replaced", async () => {
  const authority = authorityOf(await open());
  expect(() => authority.startRotation("root")).toThrow(
    expect.objectContaining({ hint: expect.stringContaining("Secret cacerts") as string }) as Error,
  );
});

test("our own keys do not take the place of plugged ones that are gone, also not at a restart", async () => {
  await open();
  const given = generateRoot("cluster.local", nowMs);
  plug("cacerts", { ...given });
  const keys = await open("b");
  double.delete(secrets, "meltemi-system", "cacerts");
  await expect(keys.refresh()).rejects.toMatchObject({
    code: "not_found",
    message: "Secret meltemi-system/cacerts is gone; its keys stay in force",
  });
  expect(authorityOf(keys).trustBundle()).toMatchObject({ version: 2, roots: [given["root-cert.pem"]] });
  await expect(open("c")).rejects.toThrow(/cacerts is gone; and meltemi-ca does not take its place/);
  // The way out.
  double.delete(maps, "meltemi-system", "meltemi-ca-state");
  await expect(keys.refresh()).rejects.toThrow(/its keys stay in force/);
  const own = await open("d");
  expect(authorityOf(own).trustBundle().roots).not.toContain(given["root-cert.pem"]);
  expect(await keys.refresh()).toBe(true);
  expect(authorityOf(keys).trustBundle()).toEqual(authorityOf(own).trustBundle());
});

test("a state that an older version wrote is read, and gets the Secret's name without a new version", async () => {
  const given = generateRoot("cluster.local", nowMs);
  plug("cacerts", { ...given });
  const before = authorityOf(await open()).trustBundle();
  const state = double.get(maps, "meltemi-system", "meltemi-ca-state");
  const { secret, ...data } = state?.["data"] as Record<string, string>;
  expect(secret).toBe("cacerts");
  double.put(maps, { metadata: { namespace: "meltemi-system", name: "meltemi-ca-state" }, data });
  nowMs += dayMs;
  expect(authorityOf(await open("b")).trustBundle()).toEqual(before);
  double.delete(secrets, "meltemi-system", "cacerts");
  await expect(open("c")).rejects.toThrow(/cacerts is gone/);
});
