/** `meltemi doctor node`: what this node can do for capture, tried out, and what an agent here would choose. */
import { formatView, type OutputFormat, type View } from "../cli/view.js";
import { nodeSupport } from "../node/capture/assembly.js";
import { choose, type Ability, type NodeSupport, type RedirectMode } from "../node/capture/support.js";
import { loadNative } from "../platform/native.js";

const rowsOf = (support: NodeSupport): readonly (readonly [string, Ability])[] => [
  ["mode bpf", support.bpf],
  ["mode nftables", support.nftables],
  ["mode iptables", support.iptables],
  ["guard bpf", support.bpf],
  ["guard nftables (weaker: by marks)", support.nftablesGuard],
];

export function doctorView(support: NodeSupport, wanted: RedirectMode): View {
  const choice = choose(support, wanted);
  const columns = ["what", "works", "because", "what to do"].map((heading) => ({ heading }));
  const rows = rowsOf(support).map(([what, { works, reason, fix }]) => [
    what,
    works ? "yes" : "no",
    reason,
    works ? "-" : (fix ?? "-"),
  ]);
  return {
    data: { redirect_mode: wanted, choice: choice ?? null, ...support },
    sections: [
      { title: "Capture on this node", columns, rows, empty: "" },
      {
        title: `--redirect-mode ${wanted} chooses`,
        columns: ["mode", "guard", "because"].map((heading) => ({ heading })),
        rows: choice === undefined ? [] : [[choice.mode, choice.guard, choice.reason]],
        empty: "Nothing: an agent with this setting does not start here.",
      },
    ],
    notes:
      choice === undefined || choice.guard === "bpf"
        ? []
        : [`With guard ${choice.guard} a process with NET_RAW gets past capture: see docs/capture.md.`],
  };
}

/** Tries everything out and prints it. The exit code: 0 where pods can be captured as wanted, 1 where not. */
export async function runDoctor(wanted: RedirectMode, format: OutputFormat): Promise<number> {
  const view = doctorView(await nodeSupport(loadNative()), wanted);
  process.stdout.write(await formatView(view, format));
  for (const note of view.notes) process.stderr.write(`${note}\n`);
  return view.sections[1]?.rows.length === 0 ? 1 : 0;
}
