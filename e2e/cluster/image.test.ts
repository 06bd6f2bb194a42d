import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createHash } from "node:crypto";
import { execaSync } from "execa";
import { afterEach, beforeEach, expect, test } from "vitest";
import { readDescription, writeImage } from "./image.js";

let directory: string;
beforeEach(() => void (directory = mkdtempSync(join(tmpdir(), "meltemi-image-"))));
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const extract = (archive: string): string => {
  const to = join(directory, "out");
  rmSync(to, { recursive: true, force: true });
  mkdirSync(to);
  execaSync("tar", ["-xf", archive, "-C", to]);
  return to;
};

test("an archive has the layer that its configuration names, with programs and what they are linked with", async () => {
  const archive = join(directory, "image.tar");
  const image = {
    name: "docker.io/meltemi/shell:1",
    entrypoint: ["/bin/dash"],
    env: { A: "b" },
    user: "1000:1000",
    files: [{ from: "/bin/sh", to: "/bin/dash", libraries: true }],
    links: { "/bin/sh": "dash" },
    contents: { "/etc/motd": "hello" },
  };
  await writeImage(image, archive);
  const out = extract(archive);
  const [manifest] = JSON.parse(readFileSync(join(out, "manifest.json"), "utf8")) as [
    { RepoTags: string[]; Layers: string[]; Config: string },
  ];
  expect(manifest).toMatchObject({ RepoTags: [image.name], Layers: ["layer.tar"] });
  const config = JSON.parse(readFileSync(join(out, manifest.Config), "utf8")) as {
    config: unknown;
    rootfs: { diff_ids: string[] };
  };
  const layer = readFileSync(join(out, "layer.tar"));
  expect(config.rootfs.diff_ids).toEqual([`sha256:${createHash("sha256").update(layer).digest("hex")}`]);
  expect(config.config).toMatchObject({ Entrypoint: ["/bin/dash"], User: "1000:1000" });
  const listed = execaSync("tar", ["-tf", join(out, "layer.tar")]).stdout;
  expect(listed).toMatch(/^\.\/bin\/dash$/m);
  expect(listed).toMatch(/libc\.so\.6$/m);
  expect(readdirSync(directory).filter((name) => name.startsWith(".image-"))).toEqual([]);

  // The same files are the same image, whenever it is made.
  const first = createHash("sha256").update(layer).digest("hex");
  await writeImage(image, archive);
  const again = readFileSync(join(extract(archive), "layer.tar"));
  expect(createHash("sha256").update(again).digest("hex")).toBe(first);
});

test("a description that is wrong is refused with every problem, and files that are not there by name", async () => {
  const path = join(directory, "image.yaml");
  writeFileSync(path, "name: Shell\nentrypoint: []\nfiles: [{from: a, to: b}]\nentry: x\n");
  expect(() => readDescription(path)).toThrow(
    /name: must be REGISTRY\/NAME:TAG.*entrypoint.*files\.0\.to.*entry/s,
  );

  writeFileSync(path, "name: docker.io/meltemi/a:1\nentrypoint: [/a]\nfiles: [{from: a, to: /a}]\n");
  const archive = join(directory, "image.tar");
  await expect(writeImage(readDescription(path), archive)).rejects.toThrow(
    `image docker.io/meltemi/a:1: there is no ${join(directory, "a")}`,
  );
  expect(readdirSync(directory)).toEqual(["image.yaml"]);
});
