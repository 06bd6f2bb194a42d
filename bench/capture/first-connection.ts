import { startIn } from "../../demo/lab/command.js";
import type { LabPod } from "../../demo/lab/topology.js";

/** Of documentation (RFC 5737): nobody answers there, but for the data plane that a captured connection meets. */
const nobody = "203.0.113.1";

/** Connects again and again, and says when it first came through, in milliseconds of the epoch. */
const script = `
  const { connect } = require("node:net");
  const now = () => performance.timeOrigin + performance.now();
  const attempt = () => {
    const socket = connect({ host: "${nobody}", port: 80 });
    const over = setTimeout(() => { socket.destroy(); attempt(); }, 4);
    socket.on("error", () => { clearTimeout(over); setTimeout(attempt, 1); });
    socket.on("connect", () => { console.log("through " + now()); process.exit(0); });
  };
  console.log("ready");
  attempt();`;

/** Starts to connect from a pod that is not captured yet. */
export async function awaitFirstConnection(
  pod: LabPod,
): Promise<{ readonly atMs: Promise<number>; stop(): void }> {
  const child = startIn(pod.netns, process.execPath, ["-e", script]);
  let output = "";
  const line = (beginning: string): Promise<string> =>
    new Promise((resolve, reject) => {
      const look = (): void => {
        const found = output.split("\n").find((each) => each.startsWith(beginning) && output.includes("\n"));
        if (found !== undefined) resolve(found);
      };
      child.stdout.on("data", look);
      child.once("close", () => reject(new Error(`the client in ${pod.name} ended: ${output}`)));
      look();
    });
  child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
  const atMs = line("through").then((text) => Number(text.split(" ")[1]));
  atMs.catch(() => undefined);
  await line("ready");
  return { atMs, stop: () => void child.kill("SIGKILL") };
}
