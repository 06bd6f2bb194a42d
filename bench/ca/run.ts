/**
 * How many workload certificates one CA process signs: each request is read and its signature checked,
 * a certificate is signed, and the ledger notes it in its file, as for a node that asks. No network.
 */
import "reflect-metadata";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Authority } from "../../src/ca/authority.js";
import { readCertificateRequest } from "../../src/ca/csr.js";
import { KeyStore } from "../../src/ca/key-store.js";
import { type Identity, spiffeId } from "../../src/domain/identity.js";
import { systemClock } from "../../src/platform/clock.js";
import { createLogger } from "../../src/platform/logger.js";
import { makeRequest } from "../../test/helpers/csr.js";
import { describeMachine } from "../report/machine.js";
import { spread } from "../report/statistics.js";

const trustDomain = "cluster.local";
/** Pods of one service account are spread over nodes, each of which holds a certificate for it. */
const nodes = 500;
const accounts = 40;

interface Rates {
  readonly perSecond: number;
  readonly perCpuSecond: number;
}

function sign(authority: Authority, requests: readonly [Identity, string][], count: number): Rates {
  const [began, cpu] = [performance.now(), process.cpuUsage()];
  for (let signed = 0; signed < count;) {
    const node = `node-${(signed / accounts) % nodes}`;
    for (const [identity, pem] of requests) {
      const request = readCertificateRequest(pem);
      if (request.uris[0] !== spiffeId(identity)) throw new Error("the request is for another identity");
      authority.issueWorkload(node, identity, request, 0);
    }
    signed += requests.length;
  }
  const { user, system } = process.cpuUsage(cpu);
  return {
    perSecond: count / ((performance.now() - began) / 1000),
    perCpuSecond: count / ((user + system) / 1_000_000),
  };
}

/** Signs `count` certificates, rounded up to all accounts, `runs` times, after a warm-up that does not count. Answers with a table. */
export async function runCa(options: {
  readonly runs: number;
  readonly count: number;
  readonly progress: (step: string) => void;
}): Promise<string> {
  const { runs, progress } = options;
  const count = Math.ceil(options.count / accounts) * accounts;
  const directory = await mkdtemp(join(tmpdir(), "meltemi-bench-ca-"));
  try {
    const authority = new Authority({
      trustDomain,
      keys: new KeyStore(join(directory, "ca")),
      clock: systemClock,
      log: createLogger({ level: "warn", format: "json", clock: systemClock, fields: {} }),
      certificateTtlMs: 86_400_000,
      rotation: { settleMs: 0, deadlineMs: 86_400_000 },
      inUse: () => true,
    });
    const requests = await Promise.all(
      Array.from({ length: accounts }, async (_none, index): Promise<[Identity, string]> => {
        const identity = { trustDomain, namespace: "shop", serviceAccount: `account-${index}` };
        return [identity, (await makeRequest({ uris: [spiffeId(identity)] })).pem];
      }),
    );
    sign(authority, requests, Math.min(count, 50 * accounts));
    const rates = Array.from({ length: runs }, (_none, round) => {
      progress(`round ${round + 1} of ${runs}`);
      return sign(authority, requests, count);
    });
    return render(await describeMachine(), rates, count);
  } finally {
    await rm(directory, { recursive: true });
  }
}

function render(
  machine: Awaited<ReturnType<typeof describeMachine>>,
  rates: readonly Rates[],
  count: number,
): string {
  const row = (title: string, values: readonly number[]): string => {
    const { median, min, max } = spread(values);
    return `| ${title} | ${median.toFixed(0)} (${min.toFixed(0)}–${max.toFixed(0)}) |`;
  };
  return [
    `# CA, commit ${machine.commit.slice(0, 12)}`,
    "",
    `- ${machine.cores} cores of ${machine.cpu}, Linux ${machine.kernel}, Node ${machine.node}`,
    `- ${rates.length} rounds of ${count} certificates: request checked, signed, noted in the ledger's file`,
    "",
    "| | median (smallest–largest) |",
    "| --- | ---: |",
    row(
      "certificates per second",
      rates.map(({ perSecond }) => perSecond),
    ),
    row(
      "certificates per second of CPU",
      rates.map(({ perCpuSecond }) => perCpuSecond),
    ),
    "",
  ].join("\n");
}
