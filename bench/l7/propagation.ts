import { Agent, get } from "node:http";
import { MeltemiError } from "../../src/domain/error.js";

/** The version that the route of a path answers with, and whether the request failed. */
function ask(agent: Agent, at: string, path: string): Promise<string> {
  return new Promise((resolve, reject) => {
    get(`http://${at}${path}`, { agent }, (response) => {
      response.resume();
      response.once("end", () => {
        if (response.statusCode !== 200) reject(new Error(`status ${response.statusCode}`));
        else resolve(String(response.headers["x-version"]));
      });
      response.once("error", reject);
    }).once("error", reject);
  });
}

const longestMs = 10_000;

/** From a change of the route table until an answer shows it, in milliseconds; requests go on all the while. */
export async function untilInForce(
  at: string,
  path: string,
  version: string,
  change: () => Promise<void>,
): Promise<{ readonly ms: number; readonly requests: number; readonly failed: number }> {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  let requests = 0;
  let failed = 0;
  try {
    await ask(agent, at, path);
    const started = performance.now();
    await change();
    while (performance.now() - started < longestMs) {
      requests += 1;
      const seen = await ask(agent, at, path).catch(() => {
        failed += 1;
        return undefined;
      });
      if (seen === version) return { ms: performance.now() - started, requests, failed };
    }
  } finally {
    agent.destroy();
  }
  throw new MeltemiError("unavailable", `${at} did not answer with ${version} in ${longestMs} ms`);
}
