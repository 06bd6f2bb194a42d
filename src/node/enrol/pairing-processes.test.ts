import { describe, expect, it } from "vitest";
import { PodProcesses, startTicksOf } from "./pairing-processes.js";

describe("a pod that is found by a process", () => {
  const starts = new Map([["/host/proc/7", 100]]);
  const processes = (): PodProcesses => new PodProcesses((directory) => starts.get(directory) ?? Number.NaN);

  it("stays that process's, whatever its number means later", () => {
    const known = processes();
    known.refuseAnother("shop/a", "/host/proc/7/ns/net");
    known.refuseAnother("shop/a", "/host/proc/7/ns/net");
    starts.set("/host/proc/7", 200);
    expect(() => known.refuseAnother("shop/a", "/host/proc/7/ns/net")).toThrow(/proc\/7 is another process/);
    // Refused again and again: having been refused is not having been paired.
    expect(() => known.refuseAnother("shop/a", "/host/proc/7/ns/net")).toThrow(/another process/);
    starts.set("/host/proc/7", 100);
  });

  it("may be found by another process that it names, or anew once it has left", () => {
    const known = processes();
    known.refuseAnother("shop/a", "/host/proc/7/ns/net");
    known.refuseAnother("shop/a", "/host/proc/8/ns/net");
    starts.set("/host/proc/7", 200);
    known.refuseAnother("shop/b", "/host/proc/7/ns/net");
    starts.set("/host/proc/7", 300);
    known.forget("shop/b");
    known.refuseAnother("shop/b", "/host/proc/7/ns/net");
  });

  it("tells processes apart by when they began", () => {
    expect(startTicksOf("/proc/self")).toBeGreaterThan(0);
    expect(() => startTicksOf("/proc/none")).toThrow(/ENOENT/);
  });
});
