/** Turning a flag's text into its value. Throws `bad_input` naming the flag. */
import { MeltemiError } from "../domain/error.js";

export interface HostPort {
  readonly host: string;
  readonly port: number;
}

const bad = (flag: string, value: string, expected: string): MeltemiError =>
  new MeltemiError("bad_input", `${flag} is "${value}", expected ${expected}`);

/** `HOST:PORT`, `[V6]:PORT`, or `none`. */
export function parseListen(flag: string, value: string): HostPort | undefined {
  if (value === "none") return undefined;
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]*)):(\d{1,5})$/.exec(value);
  const port = Number(match?.[3]);
  if (!match || port > 65_535) throw bad(flag, value, "HOST:PORT, [IPV6]:PORT or none");
  return { host: match[1] ?? (match[2] === "" || match[2] === undefined ? "0.0.0.0" : match[2]), port };
}

/** A whole number within bounds. */
export function parseInteger(flag: string, value: string, least: number, most: number): number {
  const number = /^\d{1,15}$/.test(value) ? Number(value) : Number.NaN;
  if (!(number >= least && number <= most)) throw bad(flag, value, `a whole number from ${least} to ${most}`);
  return number;
}

/** A DNS name in lower case, as trust domains and cluster names are. */
export function parseDnsName(flag: string, value: string): string {
  if (!/^[a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?$/.test(value))
    throw bad(flag, value, "lower-case letters, digits, - and .");
  return value;
}

export function parseLogFormat(flag: string, value: string): "json" | "text" {
  if (value !== "json" && value !== "text") throw bad(flag, value, "json or text");
  return value;
}

/** One of a few words. */
export function parseChoice<T extends string>(flag: string, value: string, choices: readonly T[]): T {
  const choice = choices.find((one) => one === value);
  if (choice === undefined) throw bad(flag, value, choices.join(", "));
  return choice;
}
