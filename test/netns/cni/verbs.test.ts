/** Every verb of the plugin, called directly: what it asks, what it answers, and what it decides without an answer. */
import {
  chmodSync,
  mkdirSync,
  openSync,
  readSync,
  closeSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { execa, execaSync } from "execa";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { eventually } from "../../helpers/eventually.js";
import { answering, muttering, type FakeAgent } from "./fake-agent.js";
import { callCni, otherUser, pluginProgram, type CniAnswer, type CniCall } from "./plugin.js";

const directory = "/run/meltemi/cni-verbs";
const socket = join(directory, "cni.sock");
const list = join(directory, "list.json");
const netns = "/run/netns/cni-verbs";

const previous = {
  cniVersion: "1.0.0",
  interfaces: [{ name: "eth0", sandbox: netns, mac: "02:00:00:00:00:01" }],
  ips: [
    { interface: 0, address: "10.77.0.2/24", gateway: "10.77.0.1" },
    { interface: 0, address: "fd77::2/64" },
  ],
  routes: [{ dst: "0.0.0.0/0" }],
  dns: {},
};

const config = (fields: Record<string, unknown> = {}): Record<string, unknown> => ({
  cniVersion: "1.0.0",
  name: "net",
  type: "meltemi-cni",
  socket,
  list,
  timeoutMs: 1_000,
  briefTimeoutMs: 200,
  prevResult: previous,
  ...fields,
});

const call = (verb: string | undefined, fields: Partial<CniCall> = {}): Promise<CniAnswer> =>
  callCni({ verb, config: config(), netns, pod: "shop/cart", uid: "u1", ...fields });

function expectError(answer: CniAnswer, code: number, ...parts: string[]): void {
  expect(answer.exitCode, answer.stdout).not.toBe(0);
  expect(Object.keys(answer.json ?? {}).sort()).toEqual(["cniVersion", "code", "details", "msg"]);
  expect(answer.json?.["code"], answer.stdout).toBe(code);
  for (const part of parts) expect(String(answer.json?.["msg"])).toContain(part);
  expect(answer.json?.["details"]).not.toBe("");
}

function writeList(): void {
  const content = {
    version: 1,
    never: ["kube-system"],
    namespaces: { shop: true, old: false },
    pods: { "shop/legacy": { uid: "u9", asks: false }, "old/wants": { uid: "u8", asks: true } },
  };
  rmSync(list, { force: true });
  writeFileSync(list, JSON.stringify(content), { mode: 0o600 });
}

let agent: FakeAgent | undefined;

beforeAll(() => {
  mkdirSync(directory, { recursive: true });
  execaSync("ip", ["netns", "add", "cni-verbs"]);
});
afterAll(() => {
  execaSync("ip", ["netns", "del", "cni-verbs"]);
  rmSync(directory, { recursive: true });
});
beforeEach(writeList);
afterEach(async () => {
  await agent?.close();
  agent = undefined;
});

it("is one static program", () => {
  const head = Buffer.alloc(64 + 16 * 56);
  const file = openSync(pluginProgram, "r");
  readSync(file, head, 0, head.length, 0);
  closeSync(file);
  const headers = Array.from({ length: head.readUInt16LE(56) }, (_, index) =>
    head.readUInt32LE(Number(head.readBigUInt64LE(32)) + index * head.readUInt16LE(54)),
  );
  const [load, interpreter] = [1, 3];
  expect(headers).toContain(load);
  expect(headers).not.toContain(interpreter);
  expect(statSync(pluginProgram).size).toBeLessThan(8 << 20);
});

describe("VERSION", () => {
  const supportedVersions = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

  it.each([
    ['{"cniVersion":"0.4.0"}', "0.4.0"],
    ['{"cniVersion":"9.0.0"}', "1.1.0"],
    ["", "1.1.0"],
  ])("asked with %j answers in %s", async (input, cniVersion) => {
    const answer = await callCni({ verb: "VERSION", config: input });
    expect(answer.exitCode).toBe(0);
    expect(answer.json).toEqual({ cniVersion, supportedVersions });
  });

  it("refuses what is not JSON", async () => {
    expectError(await callCni({ verb: "VERSION", config: "{" }), 6, "not JSON");
  });
});

describe("bad input", () => {
  it.each([
    ["no verb", { verb: undefined }, 4, "CNI_COMMAND is missing"],
    ["an unknown verb", { verb: "UPDATE" }, 4, 'CNI_COMMAND is "UPDATE"'],
    ["no container", { env: { CNI_CONTAINERID: "" } }, 4, "CNI_CONTAINERID is missing"],
    ["a container's name that is a path", { containerId: "../etc" }, 4, 'CNI_CONTAINERID is "../etc"'],
    ["no interface", { env: { CNI_IFNAME: "" } }, 4, "CNI_IFNAME is missing"],
    ["no namespace", { netns: "" }, 4, "CNI_NETNS is missing"],
    ["a namespace that is not there", { netns: "/run/netns/none" }, 4, "CNI_NETNS"],
    ["a namespace that is a file", { netns: "/etc/hostname" }, 4, "no namespace"],
    ["the runtime's namespace", { netns: "/proc/self/ns/net" }, 4, "the runtime's own"],
    ["arguments that are none", { env: { CNI_ARGS: "K8S_POD_NAME" } }, 4, "CNI_ARGS"],
    ["no JSON", { config: "not json" }, 6, "stdin"],
    ["an empty stdin", { config: "" }, 6, "stdin"],
    ["no version", { config: config({ cniVersion: undefined }) }, 1, "no cniVersion"],
    ["an unknown version", { config: config({ cniVersion: "3.0.0" }) }, 1, '"3.0.0"'],
    ["a version without chains", { config: config({ cniVersion: "0.2.0" }) }, 1, '"0.2.0"'],
    ["no name", { config: config({ name: undefined }) }, 7, "name"],
    ["no previous result", { config: config({ prevResult: undefined }) }, 7, "prevResult"],
    ["a previous result that is none", { config: config({ prevResult: 1 }) }, 7, "prevResult"],
    ["an address that is none", { config: config({ prevResult: { ips: [{ address: "x" }] } }) }, 7, "ips[0]"],
    ["no socket", { config: config({ socket: undefined }) }, 7, "socket"],
    ["a rule that does not exist", { config: config({ whenUnknown: "hope" }) }, 2, '"hope"'],
  ] as const)("%s", async (_name, fields, code, part) => {
    expectError(await call("ADD", fields), code, part);
  });

  it.each(["GC", "STATUS"])("%s before 1.1.0", async (verb) => {
    expectError(await call(verb), 1, verb, "1.1.0");
  });

  it("CHECK before 0.4.0", async () => {
    expectError(await call("CHECK", { config: config({ cniVersion: "0.3.1" }) }), 1, "CHECK", "0.4.0");
  });
});

describe("with an agent", () => {
  it("ADD tells it of the sandbox, and passes the previous result on", async () => {
    agent = await answering(socket, 200, { decision: "enrolled" });
    const answer = await call("ADD");
    expect(answer.exitCode, answer.stdout).toBe(0);
    expect(answer.json).toEqual(previous);
    expect(agent.asked).toEqual([
      {
        path: "/cmdadd",
        body: {
          PodName: "cart",
          PodNamespace: "shop",
          PodUID: "u1",
          ContainerID: "c1",
          IfName: "eth0",
          Network: "net",
          Netns: netns,
          NetnsInode: statSync(netns).ino,
          IPs: [
            { Interface: 0, Address: { IP: "10.77.0.2", Mask: "////AA==" }, Gateway: "10.77.0.1" },
            { Interface: 0, Address: { IP: "fd77::2", Mask: "//////////8AAAAAAAAAAA==" }, Gateway: null },
          ],
        },
      },
    ]);
  });

  it.each(["0.3.1", "0.4.0", "1.0.0", "1.1.0"])("ADD in version %s", async (cniVersion) => {
    agent = await answering(socket, 200, { decision: "out" });
    const { cniVersion: _, ...result } = previous;
    const answer = await call("ADD", { config: config({ cniVersion, prevResult: result }) });
    expect(answer.json).toEqual({ ...result, cniVersion });
  });

  it("takes an answer without a body, as ambient's agent gives it, for yes", async () => {
    agent = await answering(socket, 200, "");
    expect((await call("ADD")).exitCode).toBe(0);
  });

  it("a container that is nobody's pod is no matter of the agent's", async () => {
    agent = await answering(socket, 503, {});
    for (const verb of ["ADD", "CHECK", "DEL"]) {
      const answer = await callCni({ verb, config: config(), netns });
      expect(answer.exitCode, answer.stdout).toBe(0);
    }
    expect(agent.asked).toEqual([]);
  });

  it("its 'not now' is the runtime's 'again', with the agent's reason", async () => {
    agent = await answering(socket, 503, { error: "the data plane is not there", hint: "start it" });
    expectError(await call("ADD"), 11, "shop/cart", "the data plane is not there; start it");
    expectError(await call("CHECK"), 101, "shop/cart", "the data plane is not there");
    expect((await call("DEL")).exitCode).toBe(0);
  });

  it("its refusal is one", async () => {
    agent = await answering(socket, 400, { error: "the request is not understood" });
    expectError(await call("ADD"), 100, "shop/cart", "not understood");
  });

  it("CHECK and DEL", async () => {
    agent = await answering(socket, 200, {});
    for (const verb of ["CHECK", "DEL"]) {
      const answer = await call(verb);
      expect([answer.exitCode, answer.stdout]).toEqual([0, ""]);
    }
    expect(agent.asked.map(({ path }) => path)).toEqual(["/cmdcheck", "/cmddel"]);
    // A sandbox that is taken down need not be there any more.
    expect((await call("DEL", { netns: "", config: config({ prevResult: undefined }) })).exitCode).toBe(0);
    expect((await call("DEL", { netns: "/run/netns/none" })).exitCode).toBe(0);
  });

  it.each(["cni.dev/valid-attachments", "cni.dev/attachments"])("GC with %s", async (field) => {
    agent = await answering(socket, 200, {});
    const valid = [{ containerID: "c1", ifname: "eth0" }];
    expect((await call("GC", { config: config({ cniVersion: "1.1.0", [field]: valid }) })).exitCode).toBe(0);
    expect(agent.asked).toEqual([
      { path: "/cmdgc", body: { Network: "net", Valid: [{ ContainerID: "c1", IfName: "eth0" }] } },
    ]);
  });

  it("GC without a list of what is valid collects nothing", async () => {
    agent = await answering(socket, 200, {});
    expectError(await call("GC", { config: config({ cniVersion: "1.1.0" }) }), 7, "valid-attachments");
    expect(agent.asked).toEqual([]);
  });

  it("STATUS", async () => {
    agent = await answering(socket, 200, {});
    const strict = config({ cniVersion: "1.1.0", statusNeedsAgent: true });
    expect((await call("STATUS", { config: strict })).exitCode).toBe(0);
  });
});

/** Ways not to answer, and what the message says of each. */
const silences: readonly [string, string, () => Promise<FakeAgent | undefined>][] = [
  ["nobody there", "no process serves", () => Promise.resolve(undefined)],
  ["one that hangs", "has not answered within", () => muttering(socket, "", false)],
  [
    "one that begins an answer",
    "has not answered within",
    () => muttering(socket, "HTTP/1.1 200 OK\r\n", false),
  ],
  ["one that hangs up", "no proper answer", () => muttering(socket, "", true)],
  ["one that speaks another language", "no proper answer", () => muttering(socket, "220 smtp\r\n\r\n", true)],
  [
    "one that decides what does not exist",
    "no proper answer",
    () => answering(socket, 200, { decision: "yes" }),
  ],
  ["one that does not know the request", "no proper answer", () => answering(socket, 404, {})],
];

describe.each(silences)("without an answer: %s", (_name, words, start) => {
  beforeEach(async () => {
    agent = await start();
  });

  it("a pod that surely did not ask starts, and does not wait", async () => {
    for (const [pod, uid] of [
      ["kube-system/dns", "any"],
      ["shop/legacy", "u9"],
    ] as const) {
      const answer = await call("ADD", { pod, uid });
      expect(answer.exitCode, answer.stdout).toBe(0);
      expect(answer.json).toEqual(previous);
      expect(answer.tookMs).toBeLessThan(900);
    }
  });

  it("a pod that asked, or may have, is to be tried again", async () => {
    const pods = [
      ["shop/cart", "u1"],
      ["shop/legacy", "its successor"],
      ["old/wants", "u8"],
      ["old/new", "u2"],
      ["elsewhere/new", "u3"],
    ] as const;
    const answers = await Promise.all(pods.map(([pod, uid]) => call("ADD", { pod, uid })));
    for (const [index, answer] of answers.entries()) expectError(answer, 11, pods[index]![0], words);
  });

  it("DEL succeeds, STATUS too unless told otherwise, GC does not", async () => {
    expect((await call("DEL")).exitCode).toBe(0);
    const valid = { cniVersion: "1.1.0", "cni.dev/valid-attachments": [] };
    expect((await call("STATUS", { config: config(valid) })).exitCode).toBe(0);
    expectError(await call("STATUS", { config: config({ ...valid, statusNeedsAgent: true }) }), 50, words);
    expectError(await call("GC", { config: config(valid) }), 11, words);
  });
});

describe("the rule when nothing can be known", () => {
  const starts = async (pod: string, whenUnknown: string): Promise<boolean> => {
    const answer = await call("ADD", { pod, uid: "new", config: config({ whenUnknown }) });
    if (answer.exitCode !== 0) expectError(answer, 11, pod);
    return answer.exitCode === 0;
  };
  const pods = ["shop/new", "old/new", "elsewhere/new"];
  const rows = [
    ["retry", [false, false, false]],
    ["namespace", [false, true, false]],
    ["allow", [false, true, true]],
  ] as const;

  it.each(rows)("%s", async (rule, expected) => {
    expect(await Promise.all(pods.map((pod) => starts(pod, rule)))).toEqual(expected);
    agent = await answering(socket, 200, { decision: "unknown" });
    expect(await Promise.all(pods.map((pod) => starts(pod, rule)))).toEqual(expected);
  });

  it.each([
    ["is not there", () => rmSync(list)],
    ["is broken", () => writeFileSync(list, "{")],
    ["is of another version", () => writeFileSync(list, '{"version":2}')],
    ["may be written by others", () => chmodSync(list, 0o666)],
  ])("a list that %s says nothing", async (_name, spoil) => {
    spoil();
    expectError(await call("ADD", { pod: "kube-system/dns" }), 11, "may have asked");
    expect(
      (await call("ADD", { pod: "kube-system/dns", config: config({ whenUnknown: "allow" }) })).exitCode,
    ).toBe(0);
  });
});

it(
  otherUser ? "an impostor at the socket is not believed" : "DID NOT RUN: an impostor needs a second user",
  async () => {
    if (!otherUser) {
      console.warn("the impostor's test did not run: this sandbox has one user only");
      return;
    }
    const place = join(directory, "impostor");
    mkdirSync(place, { mode: 0o777, recursive: true });
    chmodSync(place, 0o777);
    const path = join(place, "cni.sock");
    const program = `require("http").createServer((q, r) => r.end('{"decision":"enrolled"}')).listen(${JSON.stringify(path)})`;
    const impostor = execa(
      "setpriv",
      ["--reuid", "65534", "--regid", "65534", "--clear-groups", process.execPath, "-e", program],
      {
        reject: false,
      },
    );
    try {
      await eventually("the impostor", () => statSync(path, { throwIfNoEntry: false })?.isSocket());
      expectError(await call("ADD", { config: config({ socket: path }) }), 11, "user 65534", "not by root");
      expect((await call("ADD", { pod: "kube-system/dns", config: config({ socket: path }) })).exitCode).toBe(
        0,
      );
    } finally {
      impostor.kill("SIGKILL");
      await impostor;
    }
  },
);

it("a socket whose queue is full does not hold the plugin beyond its deadline", async () => {
  const path = join(directory, "full.sock");
  const program = `
    import socket, time
    s = socket.socket(socket.AF_UNIX); s.bind(${JSON.stringify(path)}); s.listen(0)
    held = []
    while True:
      c = socket.socket(socket.AF_UNIX); c.setblocking(False)
      try: c.connect(${JSON.stringify(path)}); held.append(c)
      except BlockingIOError: break
    print("full", flush=True); time.sleep(60)`;
  const full = execa("python3", ["-c", program.replace(/^ {4}/gm, "")], { reject: false });
  try {
    await new Promise((resolve) => full.stdout.once("data", resolve));
    const answer = await call("ADD", { config: config({ socket: path }) });
    expectError(answer, 11, "has not answered within");
    expect(answer.tookMs).toBeLessThan(2_500);
  } finally {
    full.kill("SIGKILL");
    await full;
  }
});
