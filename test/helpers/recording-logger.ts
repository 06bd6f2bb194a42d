import { logLevels, type LogFields, type Logger, type LogLevel } from "../../src/platform/logger.js";

export interface LogRecord {
  readonly level: LogLevel;
  readonly message: string;
  readonly fields: LogFields;
}

/** Keeps every record, whatever the level; children write into the same list. */
export class RecordingLogger implements Logger {
  readonly records: LogRecord[];
  readonly #fields: LogFields;
  level: LogLevel = logLevels[0];

  constructor(records: LogRecord[] = [], fields: LogFields = {}) {
    this.records = records;
    this.#fields = fields;
  }

  trace(message: string, fields?: LogFields): void {
    this.#keep("trace", message, fields);
  }

  debug(message: string, fields?: LogFields): void {
    this.#keep("debug", message, fields);
  }

  info(message: string, fields?: LogFields): void {
    this.#keep("info", message, fields);
  }

  warn(message: string, fields?: LogFields): void {
    this.#keep("warn", message, fields);
  }

  error(message: string, fields?: LogFields): void {
    this.#keep("error", message, fields);
  }

  child(fields: LogFields): RecordingLogger {
    return new RecordingLogger(this.records, { ...this.#fields, ...fields });
  }

  /** The messages, in order. */
  get messages(): readonly string[] {
    return this.records.map((record) => record.message);
  }

  #keep(level: LogLevel, message: string, fields: LogFields = {}): void {
    this.records.push({ level, message, fields: { ...this.#fields, ...fields } });
  }
}
