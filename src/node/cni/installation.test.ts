import {
  chmodSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { eventually } from "../../../test/helpers/eventually.js";
import { RecordingLogger } from "../../../test/helpers/recording-logger.js";
import { scratchDirectory } from "../../../test/helpers/scratch.js";
import { systemClock } from "../../platform/clock.js";
import { systemFiles } from "../../platform/files.js";
import { Installation } from "./installation.js";

const ours = "00-meltemi.conflist";

const network = (name: string): string =>
  `{"cniVersion": "1.0.0",\n "name":"${name}", "plugins": [ {"type":"bridge"} ]}\n`;

interface Setting {
  readonly installation: Installation;
  readonly binDir: string;
  readonly confDir: string;
  readonly log: RecordingLogger;
  /** The network that runtimes take, by the file that they take. */
  readonly inForce: () => readonly [string, string] | undefined;
  readonly start: () => void;
}

function setting(): Setting {
  const directory = scratchDirectory();
  const [binDir, confDir, program] = ["bin", "net.d", "program"].map((name) => join(directory, name));
  writeFileSync(program!, "the plugin");
  const log = new RecordingLogger();
  const installation = new Installation(
    {
      binDir: binDir!,
      confDir: confDir!,
      program: program!,
      config: () =>
        Promise.resolve({ socket: "/s", list: "/l", timeoutMs: 1, briefTimeoutMs: 1, whenUnknown: "retry" }),
    },
    systemFiles,
    systemClock,
    log,
  );
  const stop = new AbortController();
  onTestFinished(() => stop.abort());
  return {
    installation,
    binDir: binDir!,
    confDir: confDir!,
    log,
    inForce: () => {
      const first = readdirSync(confDir!)
        .filter((name) => name.endsWith(".conflist"))
        .sort()[0];
      if (first === undefined) return undefined;
      return [first, (JSON.parse(readFileSync(join(confDir!, first), "utf8")) as { name: string }).name];
    },
    start: () => void installation.run(stop.signal),
  };
}

test("waits for a first configuration, and follows when it is rewritten, overtaken or taken away", async () => {
  const { confDir, inForce, log, start } = setting();
  start();
  await eventually("that it says so", () => log.messages.includes("no network configuration to chain to"));
  writeFileSync(join(confDir, "10-a.conflist"), network("first"));
  await eventually("the chain", () => inForce()?.join() === `${ours},first`);
  // As those do who replace a file.
  writeFileSync(join(confDir, ".new"), network("second"));
  renameSync(join(confDir, ".new"), join(confDir, "10-a.conflist"));
  await eventually("the new one", () => inForce()?.join() === `${ours},second`);
  writeFileSync(join(confDir, "00-a.conflist"), network("earlier"));
  await eventually("the earlier one", () => inForce()?.join() === `!${ours},earlier`);
  expect(readdirSync(confDir)).not.toContain(ours);
  rmSync(join(confDir, "00-a.conflist"));
  await eventually("the later one", () => inForce()?.join() === `${ours},second`);
  rmSync(join(confDir, "10-a.conflist"));
  await eventually("that nothing is left", () => readdirSync(confDir).length === 0);
});

test("puts back what somebody changes or removes", async () => {
  const { binDir, confDir, inForce, start } = setting();
  mkdirSync(confDir);
  writeFileSync(join(confDir, "10-a.conflist"), network("n"));
  start();
  await eventually("the chain", () => inForce()?.[0] === ours);
  const text = readFileSync(join(confDir, ours), "utf8");
  const same = (path: string, wanted: string): boolean =>
    statSync(path, { throwIfNoEntry: false }) !== undefined && readFileSync(path, "utf8") === wanted;

  writeFileSync(join(confDir, ours), network("hijacked"));
  await eventually("the chain as it was", () => same(join(confDir, ours), text));
  rmSync(join(confDir, ours));
  await eventually("the chain again", () => same(join(confDir, ours), text));
  const program = join(binDir, "meltemi-cni");
  writeFileSync(program, "something else");
  await eventually("the program as it was", () => same(program, "the plugin"));
  rmSync(program);
  await eventually("the program again", () => same(program, "the plugin"));
  expect(statSync(program).mode & 0o777).toBe(0o755);
});

test("never writes others' files, and goes without a trace", async () => {
  const { installation, binDir, confDir } = setting();
  for (const directory of [binDir, confDir]) mkdirSync(directory);
  const theirs = [join(confDir, "10-a.conflist"), join(confDir, "99-loopback.conf"), join(binDir, "bridge")];
  for (const path of theirs) {
    writeFileSync(path, network("n"));
    chmodSync(path, 0o444);
  }
  const stamps = theirs.map((path) => statSync(path, { bigint: true }));
  await installation.align();
  expect(readdirSync(binDir)).toEqual(["bridge", "meltemi-cni"]);
  const late = installation.align();
  await installation.uninstall();
  await Promise.all([late, installation.align()]);
  expect([readdirSync(binDir), readdirSync(confDir)]).toEqual([
    ["bridge"],
    ["10-a.conflist", "99-loopback.conf"],
  ]);
  for (const [index, path] of theirs.entries()) {
    const { ino, mtimeNs, ctimeNs, size } = statSync(path, { bigint: true });
    expect({ ino, mtimeNs, ctimeNs, size }).toEqual({
      ino: stamps[index]!.ino,
      mtimeNs: stamps[index]!.mtimeNs,
      ctimeNs: stamps[index]!.ctimeNs,
      size: stamps[index]!.size,
    });
  }
});
