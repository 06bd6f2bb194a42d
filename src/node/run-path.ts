/**
 * A path below the host's run directory by the one name that the agent's container has of it: runtimes also use
 * `/var/run`, which is a link on every node and nothing in a container's own root.
 */
export function runPath(path: string): string {
  return path.replace(/^\/var\/run\//, "/run/");
}
