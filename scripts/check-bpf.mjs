#!/usr/bin/env node
// Compiles the BPF programs anew and compares them, byte for byte, with the committed objects.
// `--if-present`: without the pinned compiler this is said, and is no failure.
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { compile, missing, OBJECTS, programs, REMEDY } from "./bpf-toolchain.mjs";

const lacks = missing();
if (lacks.length > 0) {
  console.error(`check-bpf: NOT CHECKED: ${lacks.join("; ")}. ${REMEDY}`);
  process.exit(process.argv.includes("--if-present") ? 0 : 1);
}

const scratch = mkdtempSync(join(tmpdir(), "meltemi-bpf-"));
let wrong = 0;
try {
  const names = programs();
  for (const name of names) {
    const file = `${name}.bpf.o`;
    compile(name, join(scratch, file));
    const committed = join(OBJECTS, file);
    if (!existsSync(committed)) {
      complain(`native/bpf/objects/${file} is missing`);
    } else if (!readFileSync(committed).equals(readFileSync(join(scratch, file)))) {
      complain(`native/bpf/objects/${file} is not what native/bpf/${name}.bpf.c compiles to`);
    }
  }
  for (const file of existsSync(OBJECTS) ? readdirSync(OBJECTS) : []) {
    if (!names.includes(file.replace(/\.bpf\.o$/, ""))) complain(`native/bpf/objects/${file} has no source`);
  }
  if (wrong === 0) console.log(`check-bpf: ${names.length} objects are what their sources compile to`);
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
process.exitCode = wrong === 0 ? 0 : 1;

/** @param {string} sentence */
function complain(sentence) {
  wrong += 1;
  console.error(`check-bpf: ${sentence}: run node scripts/build-bpf.mjs and commit the result`);
}
