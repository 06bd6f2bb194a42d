import { describe, expect, it } from "vitest";
import { addressHex, countCarried, readTcpTable } from "./carried.js";

const line = (local: string, state: string): string =>
  `   0: ${local} 0200000A:8CA0 ${state} 00000000:00000000 00:00000000 00000000     0        0 1`;
const own = new Set(["10.0.0.3", "fd00::3"].map(addressHex));

describe("carried connections", () => {
  it("are the open ones on the data plane's ports, of both families", () => {
    const text = [
      "  sl  local_address rem_address   st tx_queue rx_queue",
      line("00000000:3A99", "0A"), // 15001, listening
      line("0300000A:3A9E", "01"), // 15006, established
      line("0000000000000000FFFF00000300000A:3AA0", "08"), // 15008, close wait
      line("0300000A:3A99", "06"), // 15001, time wait
      line("0300000A:1F90", "01"), // 8080
    ].join("\n");
    expect(countCarried(text, own)).toBe(2);
  });

  it("are those with an address that is not the pod's, which only transparent sockets have", () => {
    const text = [
      line("0900000A:01BB", "01"), // 10.0.0.9:443
      line("000000FD000000000000000004000000:01BB", "01"),
      line("0100007F:01BB", "01"),
      line("00000000000000000000000001000000:01BB", "01"), // ::1
    ].join("\n");
    expect(countCarried(text, own)).toBe(2);
  });

  it("are read in the order of the wire", () => {
    expect(readTcpTable(line("0300000A:1F90", "01"))).toEqual([
      { local: "0a000003", localPort: 8080, remote: "0a000002", remotePort: 36_000, open: true },
    ]);
    expect(addressHex("fd00::3")).toBe("fd000000000000000000000000000003");
  });
});
