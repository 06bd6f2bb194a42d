import { eventually } from "../helpers/eventually.js";
import { dump } from "./node/probes.js";

/** `dump` of a namespace that has just been made: its link-local addresses are tried out first, and a dump is several looks. */
export function settledDump(netns: string): Promise<string> {
  return eventually(`the addresses of ${netns} to be its own`, async () => {
    const [text, again] = [await dump(netns), await dump(netns)];
    return text === again && !text.includes("tentative") && text;
  });
}
