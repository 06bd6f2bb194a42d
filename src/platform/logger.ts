import { pino, type DestinationStream, type Logger as PinoLogger } from "pino";
import pretty from "pino-pretty";
import { MeltemiError } from "../domain/error.js";
import type { Clock } from "./clock.js";
import { redactFields, redactText } from "./redact.js";

/** From the most to the least talkative. */
export const logLevels = ["trace", "debug", "info", "warn", "error"] as const;
export type LogLevel = (typeof logLevels)[number];

export type LogFields = Readonly<Record<string, unknown>>;

/** A record is a constant lower-case `message` and its data in `fields`; keys and tokens never reach the output. */
export interface Logger {
  trace(message: string, fields?: LogFields): void;
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
  /** A logger that adds `fields` to each of its records. It follows the level of the one it came from. */
  child(fields: LogFields): Logger;
  /** The level of this logger and of all that share its root; setting it takes effect at once. */
  level: LogLevel;
}

export interface LoggerOptions {
  readonly level: LogLevel;
  /** `json`: one object a line with `time` (RFC 3339), `level`, `message`; `text`: for a terminal. */
  readonly format: "json" | "text";
  readonly clock: Clock;
  /** Where the lines go; standard output when absent (written synchronously, so that none is lost at exit). */
  readonly destination?: DestinationStream;
  /** Fields of every record, for example `{ node: "n1" }`. */
  readonly fields?: LogFields;
}

export function createLogger(options: LoggerOptions): Logger {
  const lines = options.destination ?? standardOutput();
  const destination =
    options.format === "json" ? lines : prettyOver(lines, options.destination === undefined);
  const root = pino(
    {
      level: "trace",
      base: null,
      messageKey: "message",
      timestamp: () => `,"time":"${new Date(options.clock.now()).toISOString()}"`,
      formatters: { level: (label) => ({ level: label }) },
    },
    destination,
  );
  const logger = new RootedLogger(root, { rank: rankOf(options.level) });
  return options.fields === undefined ? logger : logger.child(options.fields);
}

function standardOutput(): DestinationStream {
  const lines = pino.destination({ fd: 1, sync: true });
  // A disk that is full, or a reader that has gone, costs records; it must not end the process.
  lines.on("error", () => undefined);
  return lines;
}

/** `json` where a program reads, `text` where a person does. */
export function defaultLogFormat(stream: { readonly isTTY?: boolean }): "json" | "text" {
  return stream.isTTY === true ? "text" : "json";
}

/** @throws MeltemiError `bad_input` that lists the levels. */
export function parseLogLevel(text: string): LogLevel {
  const level = logLevels.find((known) => known === text);
  if (level === undefined) {
    throw new MeltemiError("bad_input", `"${text}" is not a log level.`, {
      hint: `One of: ${logLevels.join(", ")}`,
    });
  }
  return level;
}

function prettyOver(lines: DestinationStream, colors: boolean): DestinationStream {
  const toText = pretty.prettyFactory({
    messageKey: "message",
    timestampKey: "time",
    translateTime: "SYS:HH:MM:ss.l",
    colorize: colors && process.stdout.isTTY,
    singleLine: true,
  });
  return { write: (line) => lines.write(toText(line)) };
}

function rankOf(level: LogLevel): number {
  return logLevels.indexOf(level);
}

class RootedLogger implements Logger {
  readonly #pino: PinoLogger;
  /** One object for a whole family: pino's own children keep the level they were born with. */
  readonly #threshold: { rank: number };

  constructor(over: PinoLogger, threshold: { rank: number }) {
    this.#pino = over;
    this.#threshold = threshold;
  }

  trace(message: string, fields?: LogFields): void {
    this.#write("trace", message, fields);
  }

  debug(message: string, fields?: LogFields): void {
    this.#write("debug", message, fields);
  }

  info(message: string, fields?: LogFields): void {
    this.#write("info", message, fields);
  }

  warn(message: string, fields?: LogFields): void {
    this.#write("warn", message, fields);
  }

  error(message: string, fields?: LogFields): void {
    this.#write("error", message, fields);
  }

  child(fields: LogFields): Logger {
    return new RootedLogger(this.#pino.child(redactFields(fields)), this.#threshold);
  }

  get level(): LogLevel {
    return logLevels[this.#threshold.rank] ?? "info";
  }

  set level(level: LogLevel) {
    this.#threshold.rank = rankOf(level);
  }

  #write(level: LogLevel, message: string, fields: LogFields = {}): void {
    if (rankOf(level) < this.#threshold.rank) return;
    this.#pino[level](redactFields(fields), redactText(message));
  }
}
