import { defineConfig } from "vitest/config";

/** `unit` needs nothing but Node; `netns` runs real binaries in namespaces of its own (scripts/test.mjs), `containerd` a container runtime, `cluster` Kubernetes on this machine. */
export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: "unit",
          include: [
            "src/**/*.test.ts",
            "test/golden/**/*.test.ts",
            "test/contract/**/*.test.ts",
            "demo/**/*.test.ts",
            "e2e/cluster/**/*.test.ts",
          ],
          setupFiles: ["test/helpers/setup-unit.ts"],
          testTimeout: 20_000,
        },
      },
      {
        test: {
          name: "containerd",
          include: ["test/containerd/**/*.test.ts"],
          testTimeout: 120_000,
          hookTimeout: 120_000,
          fileParallelism: false,
          pool: "forks",
        },
      },
      {
        test: {
          name: "cluster",
          include: ["e2e/*.test.ts"],
          testTimeout: 180_000,
          hookTimeout: 300_000,
          fileParallelism: false,
          pool: "forks",
        },
      },
      {
        test: {
          name: "netns",
          include: ["test/netns/**/*.test.ts"],
          testTimeout: 120_000,
          hookTimeout: 120_000,
          fileParallelism: false,
          pool: "forks",
        },
      },
    ],
  },
});
