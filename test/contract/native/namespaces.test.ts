import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, describe, expect, it } from "vitest";
import { loadNative } from "../../../src/platform/native.js";

const native = loadNative();
const addon = JSON.stringify(join(import.meta.dirname, "../../../native/dist/node-addon.node"));
const directory = mkdtempSync(join(tmpdir(), "meltemi-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/**
 * Runs a script in user, network and mount namespaces of its own, with the addon as `native` and a second network
 * namespace (`pod`, with 10.9.0.7/24 on `eth0`) opened as `ns`. Returns what the script passes to `done`.
 */
async function inSandbox(script: string): Promise<Record<string, unknown>> {
  const file = join(directory, "script.cjs");
  writeFileSync(
    file,
    `const native = require(${addon});
const { execFileSync } = require("node:child_process");
const sh = (text) => execFileSync("sh", ["-ec", text], { encoding: "utf8" }).trim();
const done = (value) => process.stdout.write(JSON.stringify(value));
sh("mount -t tmpfs tmpfs /run && mkdir -p /run/netns && ip netns add pod && ip -n pod link add eth0 type veth peer name eth1"
  + " && ip -n pod addr add 10.9.0.7/24 dev eth0 && ip -n pod addr add fd00:9::7/64 dev eth0 nodad && ip -n pod link set eth0 up");
const ns = native.openNetns("/run/netns/pod");
(async () => { ${script} })().catch((error) => { console.error(error); process.exit(1); });`,
  );
  const path = `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin`;
  const { stdout } = await promisify(execFile)("unshare", ["-Urnm", process.execPath, file], {
    timeout: 20_000,
    env: { ...process.env, PATH: path },
  });
  return JSON.parse(stdout) as Record<string, unknown>;
}

describe("openNetns", () => {
  it("gives the namespace's inode", () => {
    const netns = native.openNetns("/proc/self/ns/net");
    expect(netns.inode).toBe(native.currentNetnsInode());
    native.closeFd(netns.fd);
  });

  it.each(["/proc/self/ns/mnt", "/proc/self/ns/user", "/dev/null", "/etc/passwd", "/"])(
    "refuses %s",
    (path) => {
      expect(() => native.openNetns(path)).toThrow(/not a network namespace/);
    },
  );

  it("says what is wrong with a path", () => {
    expect(() => native.openNetns("/nonexistent")).toThrow(/ENOENT/);
    expect(() => native.openNetns("a\0b")).toThrow(/NUL/);
  });
});

describe("inside a namespace", () => {
  it("reads and changes policy rules and local routes, as ip does", async () => {
    const { plain, added, listed, removed, words, down } = await inSandbox(`
      sh("ip -n pod link set lo up; ip -n pod route add 10.8.0.0/16 dev eth0 src 10.9.0.7; ip -n pod route add default via 10.9.0.1");
      const rules = [
        { priority: 50, to: "10.9.0.7", local: true, table: "101" },
        { priority: 80, to: "10.4.0.0/16", goto: 32766 },
        { priority: 80, tcp: true, port: 25, goto: 32766 },
        { priority: 80, mark: "0x53a/0xfff", goto: 32766 },
        { priority: 101, tcp: true, table: "100" },
      ];
      const routes = [{ destination: "default", table: "100", source: "10.9.0.7" }, { destination: "10.9.0.7", table: "101" }];
      const routes6 = [{ destination: "default", table: "100" }];
      const nothing = { addRoutes: [], addRules: [], removeRules: [], removeRoutes: [] };
      const plain = await native.readNetnsRouting(ns.fd, false);
      await native.changeNetnsRouting(ns.fd, false, { ...nothing, addRoutes: routes, addRules: rules });
      await native.changeNetnsRouting(ns.fd, false, { ...nothing, addRoutes: [{ destination: "10.9.0.7", table: "101", source: "10.9.0.7" }] });
      await native.changeNetnsRouting(ns.fd, true, { ...nothing, addRoutes: routes6, addRules: [{ priority: 50, to: "fd00:9::7", local: true, table: "101" }, { priority: 60, to: "fd00:4::/32", goto: 32766 }] });
      const added = [await native.readNetnsRouting(ns.fd, false), await native.readNetnsRouting(ns.fd, true)];
      const listed = sh("for f in -4 -6; do ip -n pod $f rule show pref 50; ip -n pod $f rule show pref 60; done; ip -n pod rule show pref 80; ip -n pod rule show pref 101; ip -n pod route show table 100; ip -n pod route show table 101; ip -n pod -6 route show table 100");
      const words = await native.changeNetnsRouting(ns.fd, false, { ...nothing, addRules: [rules[0]] }).catch(String);
      const gone = { ...nothing, removeRules: rules, removeRoutes: routes };
      await native.changeNetnsRouting(ns.fd, false, gone);
      await native.changeNetnsRouting(ns.fd, false, gone);
      const removed = await native.readNetnsRouting(ns.fd, false);
      sh("ip -n pod link set lo down");
      const down = await native.changeNetnsRouting(ns.fd, true, { ...nothing, addRoutes: routes6 }).catch(String);
      done({ plain, added, listed, removed, words, down });`);
    const kernel = [
      { priority: 0, table: "local" },
      { priority: 32766, table: "main" },
      { priority: 32767, table: "default" },
    ];
    expect(plain).toMatchObject({ rules: kernel });
    expect(plain).toHaveProperty(
      "routes",
      expect.arrayContaining([
        { local: false, destination: "default", table: "main", device: "eth0" },
        { local: false, destination: "10.8.0.0/16", table: "main", device: "eth0", source: "10.9.0.7" },
        { local: true, destination: "10.9.0.7", table: "local", device: "eth0", source: "10.9.0.7" },
      ]),
    );
    const [v4, v6] = added as { rules: unknown[]; routes: unknown[] }[];
    expect(v4?.rules).toEqual([
      kernel[0],
      { priority: 50, to: "10.9.0.7", local: true, table: "101" },
      { priority: 80, to: "10.4.0.0/16", goto: 32766 },
      { priority: 80, tcp: true, port: 25, goto: 32766 },
      { priority: 80, mark: "0x53a/0xfff", goto: 32766 },
      { priority: 101, tcp: true, table: "100" },
      ...kernel.slice(1),
    ]);
    expect(v4?.routes).toContainEqual({
      local: true,
      destination: "10.9.0.7",
      table: "101",
      device: "lo",
      source: "10.9.0.7",
    });
    expect(v6?.rules).toContainEqual({ priority: 60, to: "fd00:4::/32", goto: 32766 });
    expect(v6?.routes).toContainEqual({ local: true, destination: "default", table: "100", device: "lo" });
    expect((listed as string).split("\n").map((line) => line.replace(/\s+/g, " ").trim())).toEqual([
      "50: from all to 10.9.0.7 iif lo lookup 101",
      "50: from all to fd00:9::7 iif lo lookup 101",
      "60: from all to fd00:4::/32 goto 32766",
      "80: from all to 10.4.0.0/16 goto 32766",
      "80: from all ipproto tcp dport 25 goto 32766",
      "80: from all fwmark 0x53a/0xfff goto 32766",
      "101: from all ipproto tcp lookup 100",
      "local default dev lo scope host src 10.9.0.7",
      "local 10.9.0.7 dev lo scope host src 10.9.0.7",
      "local default dev lo metric 1024 pref medium",
    ]);
    expect(words).toMatch(/EEXIST/);
    expect(removed).toEqual(plain);
    expect(down).toMatch(/ENETDOWN/);
  });

  it("lists that namespace's addresses, and the process stays where it was", async () => {
    const seen = await inSandbox(`
      const before = native.currentNetnsInode();
      const lists = await Promise.all(Array.from({ length: 8 }, () => native.netnsAddresses(ns.fd)));
      const other = native.openNetns("/proc/self/ns/net");
      done({ list: lists[7], all: lists.length, own: await native.netnsAddresses(other.fd), same: before === native.currentNetnsInode(), differs: before !== ns.inode,
        links: sh("ip -br link") });`);
    expect(seen["list"]).toEqual(
      expect.arrayContaining([
        { interface: "eth0", address: "10.9.0.7", prefix: 24 },
        { interface: "eth0", address: "fd00:9::7", prefix: 64 },
      ]),
    );
    expect(seen["own"]).toEqual([]);
    expect(seen).toMatchObject({ all: 8, same: true, differs: true });
    expect(seen["links"]).not.toMatch(/eth0/);
  });

  it("runs programs with input, outputs, code and in the right namespace", async () => {
    const seen = await inSandbox(`
      done({
        inode: await native.runInNetns(ns.fd, "readlink", ["/proc/self/ns/net"], "", 5000),
        copy: await native.runInNetns(ns.fd, "cat", [], "x".repeat(500000), 5000),
        fails: await native.runInNetns(ns.fd, "sh", ["-c", "echo out; echo err >&2; exit 7"], "ignored", 5000),
        signal: await native.runInNetns(ns.fd, "sh", ["-c", "kill -TERM $$"], "", 5000),
        want: ns.inode,
      });`);
    expect(seen).toMatchObject({
      inode: { code: 0, stdout: `net:[${String(seen["want"])}]\n` },
      copy: { code: 0, stdout: "x".repeat(500_000) },
      fails: { code: 7, stdout: "out\n", stderr: "err\n" },
      signal: { code: 143 },
    });
  });

  it("applies nftables in the pod's namespace only", async () => {
    const seen = await inSandbox(`
      const applied = await native.runInNetns(ns.fd, "nft", ["-f", "-"], "table inet meltemi_test {\\n chain c {\\n }\\n}\\n", 5000);
      const bad = await native.runInNetns(ns.fd, "nft", ["-f", "-"], "table {", 5000);
      done({ applied, bad, inside: sh("ip netns exec pod nft list tables"), outside: sh("nft list tables") });`);
    expect(seen).toMatchObject({
      applied: { code: 0 },
      bad: { code: 1 },
      inside: "table inet meltemi_test",
      outside: "",
    });
  });

  it("ends a program at its time limit with all that it started, and one that says too much", async () => {
    const seen = await inSandbox(`
      const begun = Date.now();
      const message = (promise) => promise.then(() => "no error", (error) => error.message);
      // No other run's sleep, of the many that may be on the machine.
      const mark = "98" + process.pid;
      const late = await message(native.runInNetns(ns.fd, "sh", ["-c", \`sleep \${mark}.1 & sleep \${mark}.2\`], "", 200));
      const loud = await message(native.runInNetns(ns.fd, "sh", ["-c", "yes"], "", 10000));
      const orphan = await native.runInNetns(ns.fd, "sh", ["-c", \`sleep \${mark}.3 & echo started\`], "", 10000);
      const absent = await message(native.runInNetns(ns.fd, "/nonexistent", [], "", 1000));
      // SIGKILL is sent, and takes effect when the process is next scheduled.
      const running = () => sh(\`grep -lzE '^\${mark}[.][123]$' /proc/[0-9]*/cmdline 2>/dev/null | wc -l\`);
      let left = running();
      for (const deadline = Date.now() + 5000; left !== "0" && Date.now() < deadline; left = running());
      done({ late, loud, orphan, absent, left, took: Date.now() - begun });`);
    expect(seen).toMatchObject({
      late: expect.stringContaining("killed after 200 ms") as string,
      loud: expect.stringContaining("wrote more than") as string,
      orphan: { code: 0, stdout: "started\n" },
      absent: expect.stringContaining("ENOENT") as string,
      left: "0",
    });
    // Not the 10 s that the loud one had.
    expect(seen["took"]).toBeLessThan(10_000);
  });

  it("writes sysctls of that namespace, and none outside net/", async () => {
    const seen = await inSandbox(`
      const message = (promise) => promise.then(() => "no error", (error) => error.message);
      await native.writeNetnsSysctl(ns.fd, "net/ipv4/ip_nonlocal_bind", "1");
      done({
        inside: sh("ip netns exec pod cat /proc/sys/net/ipv4/ip_nonlocal_bind"), outside: sh("cat /proc/sys/net/ipv4/ip_nonlocal_bind"),
        kernel: await message(native.writeNetnsSysctl(ns.fd, "kernel/hostname", "x")),
        climbs: await message(native.writeNetnsSysctl(ns.fd, "net/../kernel/hostname", "x")),
        absent: await message(native.writeNetnsSysctl(ns.fd, "net/ipv4/absent", "1")),
        wrong: await message(native.writeNetnsSysctl(ns.fd, "net/ipv4/ip_nonlocal_bind", "many")),
      });`);
    expect(seen).toMatchObject({
      inside: "1",
      outside: "0",
      kernel: expect.stringContaining("not a sysctl") as string,
      climbs: expect.stringContaining("not a sysctl") as string,
      absent: expect.stringContaining("ENOENT") as string,
      wrong: expect.stringContaining("EINVAL") as string,
    });
  });
});

describe("glanceNetns", () => {
  it("names the namespaces that differ, each by its own list of sysctls, and stays where it is", async () => {
    const seen = await inSandbox(`
      sh("ip netns add other && ip netns add third");
      const place = (name, expected) => ({ path: "/run/netns/" + name, inode: native.openNetns("/run/netns/" + name).inode, expected });
      const places = [place("pod", 0), place("other", 1), place("third", 2)];
      const names = new Map(places.map(({ inode, path }) => [inode, path.slice(11)]));
      const lists = [
        [{ name: "net/ipv4/conf/eth0/accept_local", value: "1" }, { name: "net/ipv4/ip_nonlocal_bind", value: "0" }, { name: "net/ipv6/fwmark_reflect", value: "0" }],
        [{ name: "net/ipv4/ip_nonlocal_bind", value: "0" }, { name: "net/ipv4/conf/eth0/accept_local", value: "1" }],
        [],
      ];
      const look = async () => (await native.glanceNetns(places, lists)).map((inode) => names.get(inode));
      const before = native.currentNetnsInode();
      const seen = { fresh: await look() };
      sh("ip netns exec pod sysctl -qw net.ipv4.conf.eth0.accept_local=1");
      seen.right = await look();
      sh("ip netns exec other sysctl -qw net.ipv4.ip_nonlocal_bind=1");
      seen.changed = await look();
      sh("ip netns exec other sysctl -qw net.ipv4.ip_nonlocal_bind=0 && ip netns exec pod sysctl -qw net.ipv6.fwmark_reflect=1");
      seen.changedElsewhere = await look();
      sh("umount -l /run/netns/third && mount --bind /run/netns/other /run/netns/third && umount -l /run/netns/pod");
      seen.others = await look();
      seen.same = before === native.currentNetnsInode();
      const message = (promise) => promise.then(() => "no error", (error) => error.message);
      seen.outside = await message(native.glanceNetns(places, [[{ name: "kernel/hostname", value: "x" }]]));
      seen.nothing = await native.glanceNetns([], []);
      done(seen);
      process.exit(0);`);
    expect(seen).toEqual({
      fresh: ["pod"],
      right: [],
      changed: ["other"],
      changedElsewhere: ["pod"],
      others: ["pod", "third"],
      same: true,
      outside: expect.stringContaining("not a sysctl") as string,
      nothing: [],
    });
  });
});

describe("NetnsWatch", () => {
  const watching = `
    const watch = await native.NetnsWatch.open(ns.fd);
    /** Whether something is told within a time that is long for the kernel and short for a person. */
    const told = (promise) => Promise.race([promise, new Promise((resolve) => setTimeout(resolve, 200, "nothing"))]);
  `;

  it("tells of addresses, links, routes, policy rules and nftables, one change after the other", async () => {
    const { seen } = await inSandbox(`${watching}
      const seen = {};
      let next = watch.next();
      for (const [what, command] of Object.entries({
        address: "ip -n pod address add 10.9.0.8/24 dev eth0",
        link: "ip -n pod link add d0 type veth",
        route: "ip -n pod route add 10.77.0.0/16 dev eth0",
        rule: "ip -n pod rule add fwmark 1 lookup 77",
        nftables: "ip netns exec pod nft add table inet t",
      })) {
        sh(command);
        seen[what] = await next;
        // What one command does may be told in several parts.
        for (next = watch.next(); (await told(next)) !== "nothing"; next = watch.next());
      }
      done({ seen });
      process.exit(0);`);
    expect(seen).toEqual({ address: true, link: true, route: true, rule: true, nftables: true });
  });

  it("tells nothing of other namespaces", async () => {
    const { elsewhere, here } = await inSandbox(`${watching}
      const next = watch.next();
      sh("ip link add d1 type veth && nft add table inet elsewhere");
      const elsewhere = await told(next);
      sh("ip -n pod link add d0 type veth");
      done({ elsewhere, here: await next });
      process.exit(0);`);
    expect([elsewhere, here]).toEqual(["nothing", true]);
  });

  it("resolves false when closed, pending and later, and again", async () => {
    const { pending, later } = await inSandbox(`${watching}
      const next = watch.next();
      watch.close();
      watch.close();
      done({ pending: await next, later: await watch.next() });`);
    expect([pending, later]).toEqual([false, false]);
  });

  it("names what is not a namespace", async () => {
    await expect(native.NetnsWatch.open(1 << 20)).rejects.toThrow(/EBADF/);
  });
});
