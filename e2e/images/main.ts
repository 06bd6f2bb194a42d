/** Writes the descriptions of the installation's images, for `npm run cluster -- load-image`. usage: main.js DIRECTORY [PREFIX] [TAG] */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { meltemiImages } from "./images.js";

/** The repository, from dist/e2e/images. */
const root = dirname(dirname(dirname(dirname(fileURLToPath(import.meta.url)))));
const [directory = "", prefix = "docker.io/meltemi", tag = "dev"] = process.argv.slice(2);

if (directory === "") {
  process.stderr.write("usage: main.js DIRECTORY [PREFIX] [TAG]\n");
  process.exit(2);
}
mkdirSync(directory, { recursive: true });
for (const image of meltemiImages(root, prefix, tag)) {
  const file = join(resolve(directory), `${/([^/]+):/.exec(image.name)?.[1] ?? "image"}.json`);
  writeFileSync(file, JSON.stringify(image, undefined, 2));
  process.stdout.write(`${file}\n`);
}
