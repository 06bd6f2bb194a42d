import { describe, expect, it } from "vitest";
import { VirtualClock } from "../../test/helpers/virtual-clock.js";
import { MeltemiError } from "../domain/error.js";
import { createLogger, parseLogLevel, type Logger } from "./logger.js";
import { redacted } from "./redact.js";

function logged(level: "debug" | "info" | "warn" = "info"): {
  logger: Logger;
  records: () => Record<string, unknown>[];
} {
  let text = "";
  const logger = createLogger({
    level,
    format: "json",
    clock: new VirtualClock(Date.UTC(2026, 2, 4, 5, 6, 7, 8)),
    destination: { write: (line: string) => void (text += line) },
    fields: { node: "n1" },
  });
  const records = (): Record<string, unknown>[] =>
    text
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  return { logger, records };
}

describe("logger", () => {
  it("writes one object a line with the field names of the data plane", () => {
    const { logger, records } = logged();
    logger.child({ scope: "zds" }).info("pod enrolled", { pod: "a/b", count: 3 });
    expect(records()).toEqual([
      {
        level: "info",
        time: "2026-03-04T05:06:07.008Z",
        message: "pod enrolled",
        node: "n1",
        scope: "zds",
        pod: "a/b",
        count: 3,
      },
    ]);
  });

  it("changes its level while it runs, for children made before too", () => {
    const { logger, records } = logged();
    const child = logger.child({ scope: "x" });
    child.debug("hidden");
    logger.level = "debug";
    child.debug("shown");
    expect(child.level).toBe("debug");
    child.level = "error";
    logger.warn("hidden again");
    expect(records().map((record) => record["message"])).toEqual(["shown"]);
  });

  it("never writes keys or tokens, wherever they stand", () => {
    const { logger, records } = logged();
    const pem = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIAbc\n-----END EC PRIVATE KEY-----";
    const jwt = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhYmMifQ.c2lnbmF0dXJl";
    logger.child({ auth_token: "s3cret-a" }).warn(`refused ${jwt}`, {
      privateKey: "s3cret-b",
      nested: { headers: { Authorization: "Bearer s3cret-c" }, list: [pem], text: `x ${jwt} y` },
      error: new Error(`bad ${pem}`, { cause: new Error(jwt) }),
      raw: Buffer.from("s3cret-d"),
      objectKey: "Pod/a/b",
    });
    const text = JSON.stringify(records());
    expect(text).not.toMatch(/s3cret|MHcCAQEE|c2lnbmF0dXJl|eyJhbGci/);
    expect(records()[0]).toMatchObject({ objectKey: "Pod/a/b", privateKey: redacted, raw: "[8 bytes]" });
  });

  it("writes an error's message, code, hint and cause, and survives a cycle", () => {
    const { logger, records } = logged();
    const cycle: Record<string, unknown> = { name: "loop" };
    cycle["self"] = cycle;
    logger.error("failed", {
      error: new MeltemiError("conflict", "taken", { hint: "stop it", cause: new Error("EADDRINUSE") }),
      cycle,
    });
    expect(records()[0]?.["error"]).toEqual({
      message: "taken",
      code: "conflict",
      hint: "stop it",
      cause: { message: "EADDRINUSE" },
    });
  });

  it("has a form for people", () => {
    let text = "";
    const logger = createLogger({
      level: "info",
      format: "text",
      clock: new VirtualClock(),
      destination: { write: (line: string) => void (text += line) },
    });
    logger.info("pod enrolled", { pod: "a/b" });
    expect(text).toMatch(/INFO.*pod enrolled.*a\/b/);
    expect(text.endsWith("\n")).toBe(true);
  });

  it("refuses a level that does not exist, and names those that do", () => {
    expect(parseLogLevel("warn")).toBe("warn");
    expect(() => parseLogLevel("loud")).toThrow(
      expect.objectContaining({ code: "bad_input", hint: expect.stringContaining("debug") as string }),
    );
  });
});
