/** Many pods that send at the same time: a shell each, because hundreds of anything larger would not fit. */
import { spawn } from "node:child_process";
import { netnsPath } from "../../../demo/lab/command.js";

export interface Sent {
  readonly attempted: number;
  /** How many were answered: 0 or 1, for the first answer ends it. */
  readonly served: number;
}

/** Posts a body again and again, over a connection each, until it is answered; at most for that long. */
export function send(
  netns: string,
  to: { ip: string; port: number },
  body: string,
  forSeconds: number,
): Promise<Sent> {
  const request = `POST /echo HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\nContent-Length: ${body.length}\\r\\n\\r\\n${body}`;
  // A connection that is neither refused nor answered is given up after ten seconds: on a busy machine the handshakes of hundreds take their time.
  const script = `
tries=0
until [ $SECONDS -ge ${forSeconds} ]; do
  tries=$((tries+1))
  answer=$(timeout 10 bash -c 'exec 3<>/dev/tcp/${to.ip}/${to.port} && printf "${request}" >&3 && read -r line <&3 && echo "$line"' 2>/dev/null)
  case "$answer" in "HTTP/1.1 200"*) echo "$tries 1"; exit;; esac
  sleep 1
done
echo "$tries 0"`;
  const child = spawn("nsenter", [`--net=${netnsPath(netns)}`, "--", "bash", "-c", script], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  let output = "";
  child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
  return new Promise((resolve, reject) => {
    child.once("close", () => {
      const [attempted = NaN, served = NaN] = output.trim().split(" ").map(Number);
      if (Number.isNaN(served)) reject(new Error(`a sender in ${netns} said nothing`));
      else resolve({ attempted, served });
    });
  });
}

/** Works on all, so many at the same time; gives the results in their order. */
export async function atOnce<T, R>(
  count: number,
  all: readonly T[],
  work: (one: T) => Promise<R>,
): Promise<R[]> {
  const waiting = [...all.entries()];
  const results: R[] = [];
  const worker = async (): Promise<void> => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift())
      results[next[0]] = await work(next[1]);
  };
  await Promise.all(Array.from({ length: count }, worker));
  return results;
}
