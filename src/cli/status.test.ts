import { createServer as createHttpServer } from "node:http";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { scratchDirectory } from "../../test/helpers/scratch.js";
import { systemClock } from "../platform/clock.js";
import { statusView } from "./status.js";

function listening(server: Server, path: string): Promise<string> {
  const open = new Set<Socket>();
  server.on("connection", (socket: Socket) => open.add(socket));
  onTestFinished(() => {
    for (const socket of open) socket.destroy();
    server.close();
  });
  return new Promise((resolve) => server.listen(path, () => resolve(path)));
}

/** As a process that is stopped: the kernel accepts for it, and nothing answers. */
const stopped = (path: string): Promise<string> => listening(createServer(), path);

const nodeStatus = {
  node: "n1",
  version: "1",
  pods: [],
  control_plane: { connected: false, address: "unix:x", since: "2026-01-01T00:00:00Z" },
  data_plane: { pid: 7, ready: true, restarts: 0 },
  certificates: 2,
  last_good: { loaded: false, age_s: 1 },
};

test("a control plane that does not answer is said so soon, and hides no node", async () => {
  const runDir = scratchDirectory();
  const admin = await stopped(join(runDir, "control.sock"));
  const node = createHttpServer((_, answer) => {
    answer.setHeader("content-type", "application/json").end(JSON.stringify(nodeStatus));
  });
  const nodeAdmin = await listening(node, join(runDir, "n1.sock"));
  const deaf = await stopped(join(runDir, "n2.sock"));
  const begun = systemClock.monotonic();
  const view = await statusView(
    {
      runDir,
      controlPlane: { admin, control: admin },
      nodes: [
        { name: "n1", admin: nodeAdmin, control: nodeAdmin },
        { name: "n2", admin: deaf, control: deaf },
      ],
    },
    Date.parse("2026-01-02T00:00:00Z"),
  );
  // Generous for a machine that is busy; it was ten seconds.
  expect(systemClock.monotonic() - begun).toBeLessThan(5_000);
  expect(view.data).toMatchObject({ control_plane: null, nodes: [{ node: "n1" }] });
  expect(view.notes[0]).toMatch(/^control plane does not answer: .*stopped, or overloaded/);
  expect(view.notes[1]).toMatch(/^node n2: .*no answer within 1500 ms/);
});
