import { join } from "node:path";
import { messageOf } from "../../domain/error.js";
import { every, type Clock } from "../../platform/clock.js";
import type { Files } from "../../platform/files.js";
import type { Logger } from "../../platform/logger.js";
import { watchDirectory } from "../../platform/watch.js";
import {
  chain,
  chainNames,
  isNetworkConfig,
  pluginName,
  type ConfigFile,
  type PluginConfig,
} from "./chain.js";

export interface InstallationOptions {
  /** Where the runtime looks for plugins; undefined: another brings ours there. */
  readonly binDir: string | undefined;
  /** Where the runtime looks for network configurations; undefined: another chains our plugin. */
  readonly confDir: string | undefined;
  /** Our plugin's program. */
  readonly program: string;
  /** Asked at every look: what it is made from may change. */
  readonly config: () => Promise<PluginConfig>;
}

const own: ReadonlySet<string> = new Set(chainNames);
const recheckMs = 30_000;

/** The plugin in the node's chain: put there file by file with a rename, kept there, and taken out without a trace. */
export class Installation {
  #said = "";
  #aligning: Promise<void> = Promise.resolve();
  /** Taken out for good: a change that was seen before is no reason to come back. */
  #uninstalled = false;

  constructor(
    private readonly options: InstallationOptions,
    private readonly files: Files,
    private readonly clock: Clock,
    private readonly log: Logger,
  ) {}

  /** Installs, and puts right what others change, until the signal. */
  async run(signal: AbortSignal): Promise<void> {
    const { binDir, confDir } = this.options;
    const directories = [binDir, confDir].filter((directory) => directory !== undefined);
    const look = (): Promise<void> => this.align();
    const onError = (error: unknown): void =>
      this.log.error("CNI plugin not installed", { error: messageOf(error) });
    for (const directory of directories) {
      await this.files.makeDirectory(directory, 0o755);
      await watchDirectory(directory, {
        clock: this.clock,
        signal,
        onChange: look,
        onError: (message, error) => this.log.warn("CNI directory", { message, error: messageOf(error) }),
      });
    }
    await look().catch(onError);
    await every(this.clock, recheckMs, look, { signal, background: true, onError });
  }

  /** Makes plugin and chain what they should be. The program first: a chain that names none fails every pod. */
  align(): Promise<void> {
    this.#aligning = this.#aligning.catch(() => undefined).then(() => this.#align());
    return this.#aligning;
  }

  /** Takes everything of ours out; the chain first. Other plugins' files are not opened for writing at any time. */
  async uninstall(): Promise<void> {
    this.#uninstalled = true;
    await this.#aligning.catch(() => undefined);
    const { binDir, confDir } = this.options;
    if (confDir !== undefined) for (const name of chainNames) await this.files.remove(join(confDir, name));
    if (binDir !== undefined) await this.files.remove(join(binDir, pluginName));
    this.log.info("CNI plugin uninstalled", { binDir, confDir });
  }

  async #align(): Promise<void> {
    if (this.#uninstalled) return;
    const { binDir, confDir } = this.options;
    if (binDir !== undefined) await this.#alignProgram(binDir);
    if (confDir !== undefined) await this.#alignChain(confDir);
  }

  async #alignProgram(binDir: string): Promise<void> {
    const path = join(binDir, pluginName);
    const [wanted, present] = await Promise.all([
      this.files.read(this.options.program),
      this.files.readIfPresent(path),
    ]);
    if (present?.equals(wanted) === true) return;
    await this.files.writeAtomic(path, wanted, { mode: 0o755 });
    this.log.info("CNI plugin installed", { path });
  }

  async #alignChain(confDir: string): Promise<void> {
    const wanted = chain(await this.#others(confDir), await this.options.config());
    if (wanted.type !== "chained") {
      for (const name of chainNames) await this.files.remove(join(confDir, name));
      if (wanted.type === "theirs")
        this.#say("info", "CNI chain names the plugin already", { from: wanted.from });
      else this.#say("warn", "no network configuration to chain to", { confDir, problems: wanted.problems });
      return;
    }
    const path = join(confDir, wanted.name);
    const present = await this.files.readIfPresent(path);
    if (present?.toString("utf8") !== wanted.text) {
      await this.files.writeAtomic(path, wanted.text, { mode: 0o600 });
      this.#said = "";
    }
    for (const name of chainNames) if (name !== wanted.name) await this.files.remove(join(confDir, name));
    this.#say("info", "CNI plugin chained", { path, from: wanted.from });
  }

  async #others(confDir: string): Promise<readonly ConfigFile[]> {
    const names = (await this.files.list(confDir))
      .filter(({ name, kind }) => kind !== "directory" && isNetworkConfig(name) && !own.has(name))
      .map(({ name }) => name);
    const read = names.map(async (name) => {
      const content = await this.files.readIfPresent(join(confDir, name));
      return content === undefined ? [] : [{ name, text: content.toString("utf8") }];
    });
    return (await Promise.all(read)).flat();
  }

  /** Once for each state of affairs. */
  #say(level: "info" | "warn", message: string, fields: Record<string, unknown>): void {
    const said = JSON.stringify([message, fields]);
    if (said === this.#said) return;
    this.#said = said;
    this.log[level](message, fields);
  }
}
