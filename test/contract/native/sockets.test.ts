import { spawn } from "node:child_process";
import {
  closeSync,
  existsSync,
  fstatSync,
  openSync,
  readFileSync,
  readdirSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { Socket, connect, createServer } from "node:net";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { loadNative, type PacketConnection, type PacketListener } from "../../../src/platform/native.js";
import { eventually } from "../../helpers/eventually.js";
import { scratchDirectory } from "../../helpers/scratch.js";

const native = loadNative();

function packetListener(path: string, mode = 0o600): PacketListener {
  const listener = native.PacketListener.bind(path, mode);
  onTestFinished(() => listener.close());
  return listener;
}

async function packetPair(): Promise<{ left: PacketConnection; right: PacketConnection }> {
  const path = join(scratchDirectory(), "p.sock");
  const listener = packetListener(path);
  const [left, right] = await Promise.all([native.PacketConnection.connect(path), listener.accept()]);
  onTestFinished(() => {
    left.close();
    right?.close();
  });
  return { left, right: right! };
}

/** Numbers of our descriptors that stand for the given file. */
function descriptorsOf(path: string): number {
  const { ino, dev } = statSync(path);
  return readdirSync("/proc/self/fd").filter((fd) => {
    try {
      const found = fstatSync(Number(fd));
      return found.ino === ino && found.dev === dev;
    } catch {
      return false;
    }
  }).length;
}

describe("binding", () => {
  it.each([0o600, 0o660, 0o700])("gives the socket file mode %o and leaves nothing beside it", (mode) => {
    const directory = scratchDirectory();
    packetListener(join(directory, "a.sock"), mode);
    expect(statSync(join(directory, "a.sock")).mode & 0o777).toBe(mode);
    expect(readdirSync(directory)).toEqual(["a.sock"]);
  });

  it("refuses a path that somebody serves, whatever the socket's type, and leaves it alone", async () => {
    const directory = scratchDirectory();
    const path = join(directory, "a.sock");
    packetListener(path);
    expect(() => native.PacketListener.bind(path, 0o600)).toThrow(/EADDRINUSE/);
    expect(() => native.StreamListener.bind(path, 0o600)).toThrow(/EADDRINUSE/);
    const node = createServer();
    const other = join(directory, "node.sock");
    await new Promise<void>((resolve) => node.listen(other, resolve));
    onTestFinished(() => void node.close());
    expect(() => native.StreamListener.bind(other, 0o600)).toThrow(/EADDRINUSE/);
    (await native.PacketConnection.connect(path)).close();
  });

  it("replaces the socket of a process that was killed", async () => {
    const path = join(scratchDirectory(), "a.sock");
    const child = spawn(process.execPath, [
      "-e",
      `require("net").createServer().listen(${JSON.stringify(path)})`,
    ]);
    await eventually("the child's socket", () => existsSync(path));
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGKILL");
    await ended;
    expect(existsSync(path)).toBe(true);
    packetListener(path);
    (await native.PacketConnection.connect(path)).close();
  });

  it("never replaces a file that is no socket", () => {
    const path = join(scratchDirectory(), "precious");
    writeFileSync(path, "data");
    expect(() => native.StreamListener.bind(path, 0o600)).toThrow(/EEXIST/);
    expect(readFileSync(path, "utf8")).toBe("data");
  });

  it("says in words what is wrong with a path", () => {
    const directory = scratchDirectory();
    expect(() => native.StreamListener.bind(join(directory, "x".repeat(120)), 0o600)).toThrow(/ENAMETOOLONG/);
    expect(() => native.StreamListener.bind(join(directory, "absent/a.sock"), 0o600)).toThrow(/ENOENT/);
    expect(() => native.StreamListener.bind("a\0b", 0o600)).toThrow(/no path/);
    expect(() => native.StreamListener.bind(join(directory, "a"), 0o4755)).toThrow(/permission bits/);
  });

  it("removes its socket file when closed, but not that of a successor", () => {
    const path = join(scratchDirectory(), "a.sock");
    const first = native.StreamListener.bind(path, 0o600);
    first.close();
    expect(existsSync(path)).toBe(false);
    const second = native.StreamListener.bind(path, 0o600);
    first.close();
    expect(existsSync(path)).toBe(true);
    second.close();
  });
});

describe("StreamListener", () => {
  it("hands out connections with their peer's credentials, usable as net.Socket", async () => {
    const path = join(scratchDirectory(), "s.sock");
    const listener = native.StreamListener.bind(path, 0o600);
    onTestFinished(() => listener.close());
    const client = connect(path);
    const accepted = await listener.accept();
    expect(accepted?.peer).toEqual({ pid: process.pid, uid: process.getuid?.(), gid: process.getgid?.() });
    const served = new Socket({ fd: accepted!.fd, readable: true, writable: true });
    served.pipe(served);
    client.end("hello");
    let echoed = "";
    for await (const chunk of client) echoed += String(chunk);
    expect(echoed).toBe("hello");
  });

  it("resolves every pending accept with null when closed, and later ones too", async () => {
    const listener = native.StreamListener.bind(join(scratchDirectory(), "s.sock"), 0o600);
    const pending = [listener.accept(), listener.accept()];
    listener.close();
    expect(await Promise.all(pending)).toEqual([null, null]);
    expect(await listener.accept()).toBeNull();
  });
});

describe("PacketConnection", () => {
  it("keeps packets and their order, in both directions", async () => {
    const { left, right } = await packetPair();
    const sizes = [1, 1024, 7, 60_000, 2];
    await Promise.all([
      ...sizes.map((size, index) => left.send(Buffer.alloc(size, index), [])),
      (async () => {
        for (const [index, size] of sizes.entries()) {
          const packet = await right.receive(65_536);
          expect(packet?.data.equals(Buffer.alloc(size, index))).toBe(true);
          expect(packet?.fds).toEqual([]);
        }
      })(),
    ]);
    await right.send(Buffer.from("back"), []);
    expect((await left.receive(10))?.data.toString()).toBe("back");
    expect(left.peer.pid).toBe(process.pid);
  });

  it("passes copies of descriptors, close-on-exec", async () => {
    const { left, right } = await packetPair();
    const path = join(scratchDirectory(), "shared");
    const fd = openSync(path, "w");
    const sent = left.send(Buffer.from("take"), [fd, fd]);
    closeSync(fd);
    await sent;
    const packet = await right.receive(10);
    expect(packet?.fds).toHaveLength(2);
    for (const received of packet!.fds) {
      writeSync(received, "x");
      const flags = /flags:\s+(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${received}`, "utf8"))?.[1];
      expect(Number.parseInt(flags!, 8) & 0o2000000).not.toBe(0);
      native.closeFd(received);
    }
    expect(readFileSync(path, "utf8")).toBe("xx");
    expect(descriptorsOf(path)).toBe(0);
  });

  it("refuses a packet longer than asked for and closes its descriptors", async () => {
    const { left, right } = await packetPair();
    const path = join(scratchDirectory(), "leak");
    writeFileSync(path, "");
    const fd = openSync(path, "r");
    await left.send(Buffer.alloc(100), [fd]);
    closeSync(fd);
    await expect(right.receive(99)).rejects.toThrow(/longer than asked/);
    await eventually("no descriptor is left", () => descriptorsOf(path) === 0);
    await left.send(Buffer.alloc(99), []);
    expect((await right.receive(99))?.data).toHaveLength(99);
  });

  it("refuses more descriptors than it accepts, and closes them all", async () => {
    const path = join(scratchDirectory(), "p.sock");
    const listener = packetListener(path);
    const file = join(scratchDirectory(), "leak");
    writeFileSync(file, "");
    const sender = spawn("python3", [
      "-c",
      "import socket,array,os,sys\ns=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\ns.connect(sys.argv[1])\n" +
        "f=os.open(sys.argv[2],os.O_RDONLY)\n" +
        "for n in (17,40,200,16): s.sendmsg([b'x'],[(socket.SOL_SOCKET,socket.SCM_RIGHTS,array.array('i',[f]*n))])\n" +
        "s.recv(1)",
      path,
      file,
    ]);
    onTestFinished(() => void sender.kill("SIGKILL"));
    const connection = await listener.accept();
    onTestFinished(() => connection?.close());
    expect(connection?.peer.pid).toBe(sender.pid);
    for (let i = 0; i < 3; i++) await expect(connection!.receive(10)).rejects.toThrow(/more descriptors/);
    expect(descriptorsOf(file)).toBe(0);
    const last = await connection!.receive(10);
    expect(last?.fds).toHaveLength(16);
    for (const fd of last!.fds) native.closeFd(fd);
    expect(() => void connection!.send(Buffer.from("x"), []).catch(() => undefined)).not.toThrow();
  });

  it("tells an empty packet from the end", async () => {
    const path = join(scratchDirectory(), "p.sock");
    const listener = packetListener(path);
    const sender = spawn("python3", [
      "-c",
      "import socket,sys\ns=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\ns.connect(sys.argv[1])\ns.send(b'')\ns.send(b'z')\n",
      path,
    ]);
    onTestFinished(() => void sender.kill("SIGKILL"));
    const connection = await listener.accept();
    expect((await connection!.receive(10))?.data).toHaveLength(0);
    expect((await connection!.receive(10))?.data.toString()).toBe("z");
    expect(await connection!.receive(10)).toBeNull();
    connection!.close();
  });

  it("resolves a pending receive with null at close, on both sides, and refuses to send afterwards", async () => {
    const { left, right } = await packetPair();
    const [ours, theirs] = [left.receive(10), right.receive(10)];
    left.close();
    expect(await Promise.all([ours, theirs])).toEqual([null, null]);
    await expect(left.send(Buffer.from("x"), [])).rejects.toThrow(/closed/);
    expect(await left.receive(10)).toBeNull();
    await expect(right.send(Buffer.from("x"), [])).rejects.toThrow(/EPIPE/);
  });

  it("does not let a slow reader block others, nor the event loop", async () => {
    const { left } = await packetPair();
    const stuck = Array.from({ length: 64 }, () => left.send(Buffer.alloc(60_000), []).catch(() => "ended"));
    const other = await packetPair();
    await other.left.send(Buffer.from("quick"), []);
    expect((await other.right.receive(10))?.data.toString()).toBe("quick");
    left.close();
    expect(await Promise.all(stuck)).toContain("ended");
  });

  it("checks its arguments", async () => {
    const { left, right } = await packetPair();
    await expect(left.send(Buffer.alloc(0), [])).rejects.toThrow(/1 to/);
    await expect(left.send(Buffer.from("x"), Array<number>(17).fill(0))).rejects.toThrow(/at most 16/);
    await expect(left.send(Buffer.from("x"), [999_999])).rejects.toThrow(/EBADF/);
    await expect(right.receive(0)).rejects.toThrow(/outside/);
    const first = right.receive(10);
    await expect(right.receive(10)).rejects.toThrow(/pending/);
    right.close();
    expect(await first).toBeNull();
    await expect(native.PacketConnection.connect("/nonexistent/p.sock")).rejects.toThrow(/ENOENT/);
  });
});

describe("descriptors", () => {
  it("duplicates and closes", () => {
    const fd = openSync("/dev/null", "r");
    const copy = native.duplicateFd(fd);
    closeSync(fd);
    expect(fstatSync(copy).isCharacterDevice()).toBe(true);
    native.closeFd(copy);
    expect(() => native.closeFd(copy)).toThrow(/EBADF/);
    expect(() => native.closeFd(1)).toThrow(/not one of ours/);
  });

  it("reads a memfd's seals, and only a memfd's", async () => {
    const path = join(scratchDirectory(), "p.sock");
    const listener = packetListener(path);
    const sender = spawn("python3", [
      "-c",
      "import socket,array,os,sys,fcntl\ns=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\ns.connect(sys.argv[1])\n" +
        "m=os.memfd_create('k',os.MFD_ALLOW_SEALING|os.MFD_CLOEXEC)\nos.write(m,b'key')\nfcntl.fcntl(m,1033,0xf)\n" +
        "s.sendmsg([b'k'],[(socket.SOL_SOCKET,socket.SCM_RIGHTS,array.array('i',[m]))])\ns.recv(1)",
      path,
    ]);
    onTestFinished(() => void sender.kill("SIGKILL"));
    const connection = await listener.accept();
    onTestFinished(() => connection?.close());
    const [memfd] = (await connection!.receive(10))!.fds;
    expect(native.memfdSeals(memfd!)).toBe(0xf);
    native.closeFd(memfd!);
    const plain = openSync(join(scratchDirectory(), "plain"), "w");
    expect(() => native.memfdSeals(plain)).toThrow();
    closeSync(plain);
  });
});
