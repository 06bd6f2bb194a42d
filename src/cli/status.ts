/** `meltemi status`: is it running, on which nodes, and what is wrong. */
import { z } from "zod";
import { MeltemiError, messageOf } from "../domain/error.js";
import { formatProblem, type Problem } from "../domain/problem.js";
import { ask, askNodes, type NodeAnswers } from "./ask.js";
import type { Target } from "./run-directory.js";
import { controlStatusShape, nodeStatusShape, problemShape } from "./shapes.js";
import { age, orDash } from "./table.js";
import type { Section, View } from "./view.js";

type ControlStatus = z.infer<typeof controlStatusShape>;
type NodeStatus = z.infer<typeof nodeStatusShape>;
type NodeStatusAnswers = NodeAnswers<NodeStatus>;

function controlPlaneSection(status: ControlStatus, nowMs: number): Section {
  return {
    title: `Control plane ${status.version}, trust domain ${status.trust_domain}, cluster ${status.cluster_id}`,
    columns: ["ready", "streams", "workloads", "services", "policies", "problems", "ca", "age"].map(
      (heading) => ({ heading }),
    ),
    rows: [
      [
        status.ready ? "yes" : "no",
        String(status.streams),
        orDash((status.objects["Pod"] ?? 0) + (status.objects["WorkloadEntry"] ?? 0)),
        orDash((status.objects["Service"] ?? 0) + (status.objects["ServiceEntry"] ?? 0)),
        orDash((status.objects["AuthorizationPolicy"] ?? 0) + (status.objects["PeerAuthentication"] ?? 0)),
        String(status.problems),
        status.ca.phase,
        age(nowMs - Date.parse(status.since)),
      ],
    ],
    empty: "",
  };
}

function nodesSection(nodes: readonly NodeStatus[], nowMs: number): Section {
  return {
    title: "Nodes",
    columns: [
      ...[
        "node",
        "ready",
        "pods",
        "enrolled",
        "control-plane",
        "data-plane",
        "capture",
        "guard",
        "restarts",
        "certificates",
        "age",
      ].map((heading) => ({ heading })),
      { heading: "capture because", wide: true },
      { heading: "last exit", wide: true },
      { heading: "last error", wide: true },
    ],
    rows: nodes.map((node) => [
      node.node,
      node.data_plane.ready ? "yes" : "no",
      String(node.pods.length),
      String(node.pods.filter(({ state }) => state === "enrolled").length),
      node.control_plane.connected ? "connected" : "away",
      node.data_plane.pid ? `pid ${node.data_plane.pid}` : "down",
      orDash(node.capture?.mode),
      orDash(node.capture?.guard),
      String(node.data_plane.restarts),
      orDash(node.certificates),
      node.data_plane.since ? age(nowMs - Date.parse(node.data_plane.since)) : "-",
      orDash(node.capture?.reason),
      orDash(node.data_plane.last_exit),
      orDash(node.control_plane.last_error),
    ]),
    empty: "No node agent answers.",
  };
}

/** Pods that are not in the state their labels ask for. */
function troubleSection(nodes: readonly NodeStatus[]): Section[] {
  const rows = nodes.flatMap((node) =>
    node.pods
      .filter(({ state }) => state === "failed" || state === "pending")
      .map((pod) => [pod.namespace, pod.name, node.node, pod.state, orDash(pod.reason)]),
  );
  if (rows.length === 0) return [];
  return [
    {
      title: "Pods not in the mesh yet",
      columns: ["namespace", "name", "node", "state", "reason"].map((heading) => ({ heading })),
      rows,
      empty: "",
    },
  ];
}

/** How many problems a person is shown; `-o json` has all. */
const mostProblems = 50;

function problemNotes(problems: readonly Problem[]): string[] {
  const rank = { error: 0, warning: 1, unsupported: 2 } satisfies Record<Problem["severity"], number>;
  const worstFirst = [...problems].sort((a, b) => rank[a.severity] - rank[b.severity]);
  const lines = worstFirst.slice(0, mostProblems).map(formatProblem);
  const left = problems.length - lines.length;
  return left > 0 ? [...lines, `and ${left} more; all of them: meltemi status -o json`] : lines;
}

/** Whoever asks for the status wants to know who does not answer, and not to wait for it. */
const statusTimeoutMs = 1_500;

interface ControlAnswer {
  readonly control?: ControlStatus;
  readonly problems: z.infer<typeof problemShape>[];
  readonly notes: readonly string[];
}

async function askControlPlane(target: Target): Promise<ControlAnswer> {
  if (!target.controlPlane) return { problems: [], notes: [] };
  const { admin } = target.controlPlane;
  try {
    const control = await ask(admin, "/status", controlStatusShape, statusTimeoutMs);
    return { control, problems: await ask(admin, "/problems", z.array(problemShape)), notes: [] };
  } catch (error) {
    if (target.nodes.length === 0) throw error;
    const hint = error instanceof MeltemiError && error.hint ? ` ${error.hint}` : "";
    return { problems: [], notes: [`control plane does not answer: ${messageOf(error)}${hint}`] };
  }
}

export async function statusView(target: Target, nowMs: number): Promise<View> {
  const asked = askNodes(target, "/status", nodeStatusShape, statusTimeoutMs).catch(
    (error: unknown) => error,
  );
  const { control, problems, notes } = await askControlPlane(target);
  const told = await asked;
  if (told instanceof Error && !control) throw told;
  const { answers, notes: nodeNotes } =
    told instanceof Error ? { answers: [], notes: [messageOf(told)] } : (told as NodeStatusAnswers);
  const nodes = answers.map(({ value }) => value);
  return {
    data: { control_plane: control ?? null, nodes, problems },
    sections: [
      ...(control ? [controlPlaneSection(control, nowMs)] : []),
      nodesSection(nodes, nowMs),
      ...troubleSection(nodes),
    ],
    notes: [...notes, ...nodeNotes, ...problemNotes(problems as Problem[])],
  };
}
