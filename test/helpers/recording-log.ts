import type { LogFields, Logger, LogLevel } from "../../src/platform/logger.js";

export interface LogRecord {
  readonly level: LogLevel;
  readonly message: string;
  readonly fields: LogFields;
}

/** A logger that keeps its records for the test to read. */
export function recordingLog(
  records: LogRecord[] = [],
  bound: LogFields = {},
): Logger & { readonly records: LogRecord[] } {
  const at =
    (level: LogLevel) =>
    (message: string, fields: LogFields = {}): void =>
      void records.push({ level, message, fields: { ...bound, ...fields } });
  return {
    records,
    level: "trace",
    trace: at("trace"),
    debug: at("debug"),
    info: at("info"),
    warn: at("warn"),
    error: at("error"),
    child: (fields) => recordingLog(records, { ...bound, ...fields }),
  };
}
