import { mkdir } from "node:fs/promises";
import { loadavg } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { eventually } from "../../demo/lab/command.js";
import { listens, residentMb, sum } from "../l4/processes.js";
import type { ContenderRound, Round } from "../report/raw.js";
import { Envoy } from "./envoy.js";
import { load, type Load, type Protocol } from "./generator.js";
import { Plain } from "./plain.js";
import { untilInForce } from "./propagation.js";
import { Rig, type RigPlaces } from "./rig.js";

export interface Programs {
  readonly proxy: string;
  readonly rig: string;
  /** The waypoint's core as a plain reverse proxy. */
  readonly plain: string;
  /** Undefined: nothing to compare with. */
  readonly envoy: string | undefined;
}

export interface RoundOptions {
  readonly programs: Programs;
  readonly directory: string;
  readonly seconds: number;
  readonly warmupSeconds: number;
  readonly manyRoutes: number;
  readonly progress: (step: string) => void;
}

type Name = "direct" | "meltemi" | "envoy";
/** With mutual TLS on both sides (the waypoint's in tunnels), or without any. */
type Form = "mtls" | "plain";

/** How long a process rests before its memory is read. */
const settleMs = 1_000;
const ports = { tls: [21_001, 21_002], plain: [21_003, 21_004] } as const;
const protocols: readonly Protocol[] = ["http1", "http2", "grpc"];

class Contender {
  readonly values: { [key: string]: number } = {};
  readonly voided: string[] = [];
  readonly evidence: unknown[] = [];

  constructor(readonly name: Name) {}

  get result(): ContenderRound {
    return { values: this.values, voided: this.voided, evidence: this.evidence };
  }
}

/** A route table in force in a waypoint and an Envoy. */
class Site {
  readonly #rig = new Rig();
  #envoy: Envoy | undefined;
  #places: RigPlaces | undefined;
  readonly #plain = { http1: new Plain(), http2: new Plain() };

  constructor(
    private readonly options: RoundOptions,
    private readonly directory: string,
    readonly routes: number,
    private readonly policy: boolean,
  ) {}

  async up(): Promise<void> {
    const { programs } = this.options;
    const { routes, policy } = this;
    const rig = join(this.directory, "rig");
    await mkdir(this.directory, { recursive: true });
    this.#places = await this.#rig.start({
      binary: programs.rig,
      proxy: programs.proxy,
      directory: rig,
      routes,
      policy,
      envoyPorts: ports.tls,
    });
    const { backend, backend_tls: backendTls } = this.#places;
    for (const kind of ["http1", "http2"] as const)
      await this.#plain[kind].start(programs.plain, { backend, kind, routes, policy });
    if (programs.envoy === undefined) return;
    this.#envoy = new Envoy({
      binary: programs.envoy,
      directory: join(this.directory, "envoy"),
      certificates: rig,
      routes,
      policy,
      ports,
      backend: { plain: backend, tls: backendTls },
    });
    await this.#envoy.start();
    const { pid } = this.#envoy;
    await eventually("Envoy to listen", () =>
      [...ports.tls, ...ports.plain].every((port) => listens(pid, port)) ? true : undefined,
    );
  }

  async down(): Promise<void> {
    this.#envoy?.stop();
    this.#plain.http1.stop();
    this.#plain.http2.stop();
    await this.#rig.stop();
  }

  get path(): string {
    return `/r${this.routes - 1}/x`;
  }

  charged(name: Name, form: Form, protocol: Protocol): readonly number[] {
    if (name === "direct") return [];
    if (name === "envoy") return [this.#envoy?.pid ?? 0];
    return [form === "mtls" ? this.#running().waypoint : this.#plain[backendOf(protocol)].pid];
  }

  at(name: Name, form: Form, protocol: Protocol): string {
    const { fronts, backend } = this.#running();
    const kind = backendOf(protocol);
    if (form === "mtls") return name === "direct" ? fronts.direct : fronts[`${name}_${kind}`];
    switch (name) {
      case "direct":
        return backend;
      case "meltemi":
        return this.#plain[kind].address;
      case "envoy":
        return `127.0.0.1:${ports.plain[kind === "http1" ? 0 : 1]}`;
    }
  }

  async change(name: Name, version: string): Promise<void> {
    if (name === "meltemi") this.#rig.route(version);
    else await this.#envoy?.route(version);
  }

  #running(): RigPlaces {
    if (!this.#places) throw new Error("the site is not up");
    return this.#places;
  }
}

const backendOf = (protocol: Protocol): "http1" | "http2" => (protocol === "http1" ? "http1" : "http2");

async function carry(site: Site, contender: Contender, key: string, what: Load): Promise<void> {
  const scratch = "/tmp";
  const outcome = await load(what, scratch);
  contender.evidence.push({ key, routes: site.routes, ...outcome });
  if (outcome.failed > 0) contender.voided.push(`${key}: ${outcome.failed} requests failed`);
  if (what.charged.length > 0 && outcome.cores < 0.005)
    contender.voided.push(`${key}: it used ${outcome.cores.toFixed(4)} cores: something else carried it`);
  const { values } = contender;
  values[`${key}_per_s`] = outcome.perSecond;
  if (what.charged.length > 0) {
    values[`${key}_cpu_us`] = (outcome.cores / outcome.perSecond) * 1e6;
    if (key.startsWith("mtls_"))
      values["under_load_mb"] = Math.max(values["under_load_mb"] ?? 0, outcome.residentMb);
  }
  if (outcome.p50Ms !== undefined) values[`${key}_p50_ms`] = outcome.p50Ms;
  if (outcome.p99Ms !== undefined) values[`${key}_p99_ms`] = outcome.p99Ms;
}

/** From another start each time, so that no contender always comes after the same one. */
const rotated = <T>(items: readonly T[], by: number): readonly T[] =>
  items.map((_, index) => items[(index + by) % items.length] as T);

/** All contenders, started anew and loaded in turn, measurement by measurement. */
export async function runRound(round: number, options: RoundOptions): Promise<Round> {
  const startedAt = new Date().toISOString();
  const loadAverage = loadavg();
  const names = ["direct", "meltemi", ...(options.programs.envoy === undefined ? [] : ["envoy"])] as const;
  const contenders = names.map((name) => new Contender(name as Name));
  const { seconds, warmupSeconds, progress } = options;
  const using = async (
    label: string,
    routes: number,
    policy: boolean,
    work: (site: Site) => Promise<void>,
  ) => {
    progress(`${label}: starting`);
    const site = new Site(
      options,
      join(options.directory, `${round}-${label.replaceAll(" ", "-")}`),
      routes,
      policy,
    );
    try {
      await site.up();
      await work(site);
    } finally {
      await site.down();
    }
  };
  const turn = async (
    site: Site,
    key: string,
    step: number,
    over: Pick<Load, "protocol" | "connections" | "streams" | "rate"> & { readonly form: Form },
    who: readonly Contender[] = contenders,
  ): Promise<void> => {
    for (const contender of rotated(who, round + step)) {
      progress(`${key}: ${contender.name}`);
      const { form, protocol } = over;
      const to = site.at(contender.name, form, protocol);
      const charged = site.charged(contender.name, form, protocol);
      const what = { ...over, to, path: site.path, seconds, warmupSeconds, charged };
      await carry(site, contender, key, what);
    }
  };
  const proxies = contenders.filter(({ name }) => name !== "direct");
  const most = { http1: [32, 1], http2: [16, 8], grpc: [16, 8] } as const;

  await using("one route", 1, false, async (site) => {
    await sleep(settleMs);
    for (const { name, values } of proxies)
      values["idle_mb"] = sum(residentMb(site.charged(name, "mtls", "http1")));
    await turn(
      site,
      "one_route",
      0,
      { form: "mtls", protocol: "http1", connections: 32, streams: 1, rate: undefined },
      proxies,
    );
  });
  await using("100 routes and a policy", 100, true, async (site) => {
    for (const form of ["mtls", "plain"] as const) {
      for (const [step, protocol] of protocols.entries()) {
        const [connections, streams] = most[protocol];
        const over = { form, protocol, connections, streams, rate: undefined };
        await turn(site, `${form}_${protocol}_most`, step, over);
        const paced = { form, protocol, connections: 10, streams: 8, rate: 1_000 };
        await turn(site, `${form}_${protocol}_paced`, step, paced);
      }
    }
    for (const { name, values, evidence, voided } of rotated(proxies, round)) {
      const at = site.at(name, "mtls", "http1");
      const seen = await untilInForce(at, site.path, "v2", () => site.change(name, "v2"));
      evidence.push({ change: seen });
      if (seen.failed > 0) voided.push(`route change: ${seen.failed} requests failed`);
      values["change_ms"] = seen.ms;
    }
  });
  await using(`${options.manyRoutes} routes`, options.manyRoutes, false, async (site) => {
    await sleep(settleMs);
    for (const { name, values } of proxies)
      values["many_routes_mb"] = sum(residentMb(site.charged(name, "mtls", "http1")));
    await turn(
      site,
      "many_routes",
      1,
      { form: "mtls", protocol: "http1", connections: 32, streams: 1, rate: undefined },
      proxies,
    );
  });
  return {
    round,
    loadAverage,
    startedAt,
    contenders: Object.fromEntries(contenders.map(({ name, result }) => [name, result])),
  };
}
