/** Something at the agent's socket: what it is asked, and what it answers. */
import { createServer, type Server } from "node:http";
import { createServer as createRawServer, type Server as RawServer, type Socket } from "node:net";

export interface FakeAgent {
  readonly asked: { readonly path: string; readonly body: Record<string, unknown> }[];
  close(): Promise<void>;
}

const listening = (server: Server | RawServer, path: string): Promise<void> =>
  new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(path, resolve);
  });

export async function answering(path: string, status: number, body: unknown): Promise<FakeAgent> {
  const asked: FakeAgent["asked"] = [];
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      const text = Buffer.concat(chunks).toString("utf8");
      asked.push({ path: request.url ?? "", body: JSON.parse(text) as Record<string, unknown> });
      const answer = typeof body === "string" ? body : JSON.stringify(body);
      response.writeHead(status, { "content-length": Buffer.byteLength(answer) }).end(answer);
    });
  });
  await listening(server, path);
  return {
    asked,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/** Accepts, writes something that is no whole answer, and either hangs up or says nothing more. */
export async function muttering(path: string, text: string, end: boolean): Promise<FakeAgent> {
  const open = new Set<Socket>();
  const server = createRawServer((socket) => {
    open.add(socket);
    socket.on("error", () => undefined);
    // Only once asked: hanging up earlier would be a refusal to listen.
    socket.once("data", () => {
      if (end) socket.end(text);
      else socket.write(text);
    });
  });
  await listening(server, path);
  return {
    asked: [],
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        for (const socket of open) socket.destroy();
      }),
  };
}
