/** Container images without a builder: an archive of one layer that is put together from files of this machine. */
import { createHash } from "node:crypto";
import {
  cpSync,
  createReadStream,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { execa } from "execa";
import { parse } from "yaml";
import { z } from "zod";
import { MeltemiError } from "../../src/domain/error.js";

const absolute = z.string().startsWith("/");

/** What an image is made of. */
const description = z.strictObject({
  /** With registry and tag, as `docker.io/meltemi/agent:dev`. */
  name: z.string().regex(/^[a-z0-9.-]+(\/[a-z0-9._-]+)+:[\w.-]+$/, "must be REGISTRY/NAME:TAG"),
  entrypoint: z.array(z.string()).min(1),
  cmd: z.array(z.string()).default([]),
  env: z.record(z.string(), z.string()).default({}),
  user: z.string().optional(),
  workingDir: absolute.optional(),
  files: z.array(
    z.strictObject({
      /** A file or a directory here; relative to the description. */
      from: z.string(),
      /** Where it is in the image. */
      to: absolute,
      /** Takes along the libraries that the program is linked with. */
      libraries: z.boolean().default(false),
    }),
  ),
  /** Directories to make, empty. */
  directories: z.array(absolute).default([]),
  /** Link and what it points to. */
  links: z.record(absolute, z.string()).default({}),
  /** Small files by their contents. */
  contents: z.record(absolute, z.string()).default({}),
});

export type ImageDescription = z.input<typeof description>;

/** @throws MeltemiError `bad_input` with every problem and its field */
export function readDescription(path: string): ImageDescription {
  const parsed = description.safeParse(parse(readFileSync(path, "utf8")));
  if (!parsed.success) {
    const problems = parsed.error.issues.map((issue) => `${issue.path.join(".")}: ${issue.message}`);
    throw new MeltemiError("bad_input", `${path} describes no image: ${problems.join("; ")}`);
  }
  const base = dirname(path);
  return {
    ...parsed.data,
    files: parsed.data.files.map((file) => ({
      ...file,
      from: file.from.startsWith("/") ? file.from : join(base, file.from),
    })),
  };
}

/** Absolute paths of the libraries that a program needs; none for a static one. */
async function librariesOf(program: string): Promise<readonly string[]> {
  const result = await execa("ldd", [program], { reject: false });
  if (/not a dynamic executable|statically linked/.test(result.stdout + result.stderr)) return [];
  if (result.failed) throw new MeltemiError("system", `ldd ${program}: ${result.stderr}`);
  return [...result.stdout.matchAll(/(?:=> |^\s+)(\/\S+) \(0x/gm)].flatMap((match) => match[1] ?? []);
}

async function sha256(path: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path), hash);
  return hash.digest("hex");
}

/** Writes the image's archive, as `ctr images import` and others take it. Replaces one that is there as a whole. */
export async function writeImage(image: ImageDescription, archive: string): Promise<void> {
  const { name, entrypoint, cmd, env, user, workingDir, files, directories, links, contents } =
    description.parse(image);
  mkdirSync(dirname(archive), { recursive: true });
  const stage = mkdtempSync(join(dirname(archive), ".image-"));
  try {
    const layer = join(stage, "layer");
    const place = (path: string): string => {
      const target = join(layer, path);
      mkdirSync(dirname(target), { recursive: true });
      return target;
    };
    mkdirSync(join(layer, "tmp"), { recursive: true, mode: 0o1777 });
    for (const path of directories) mkdirSync(join(layer, path), { recursive: true });
    for (const file of files) {
      if (!existsSync(file.from))
        throw new MeltemiError("not_found", `image ${name}: there is no ${file.from}`);
      cpSync(file.from, place(file.to), {
        recursive: true,
        ...(file.libraries ? { dereference: true } : { verbatimSymlinks: true }),
      });
      if (!file.libraries) continue;
      for (const library of await librariesOf(file.from))
        cpSync(library, place(library), { dereference: true });
    }
    for (const [path, text] of Object.entries(contents)) writeFileSync(place(path), text);
    for (const [path, target] of Object.entries(links)) symlinkSync(target, place(path));

    const reproducible = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"];
    await execa("tar", [...reproducible, "-cf", join(stage, "layer.tar"), "-C", layer, "."]);
    const configuration = {
      architecture: process.arch === "arm64" ? "arm64" : "amd64",
      os: "linux",
      config: {
        Entrypoint: entrypoint,
        Cmd: cmd,
        Env: Object.entries({ PATH: "/usr/sbin:/usr/bin:/sbin:/bin", ...env }).map(
          ([key, value]) => `${key}=${value}`,
        ),
        ...(user === undefined ? {} : { User: user }),
        ...(workingDir === undefined ? {} : { WorkingDir: workingDir }),
      },
      rootfs: { type: "layers", diff_ids: [`sha256:${await sha256(join(stage, "layer.tar"))}`] },
    };
    writeFileSync(join(stage, "config.json"), JSON.stringify(configuration));
    writeFileSync(
      join(stage, "manifest.json"),
      JSON.stringify([{ Config: "config.json", RepoTags: [name], Layers: ["layer.tar"] }]),
    );
    const whole = join(stage, basename(archive));
    await execa("tar", ["-cf", whole, "-C", stage, "manifest.json", "config.json", "layer.tar"]);
    renameSync(whole, archive);
  } finally {
    rmSync(stage, { recursive: true, force: true });
  }
}

/** The name of an image's archive: its own name, as a file's. */
export const archiveName = (image: string): string => `${image.replaceAll(/[/:]/g, "_")}.tar`;
