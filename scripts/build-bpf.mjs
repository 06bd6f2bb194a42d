#!/usr/bin/env node
// Compiles the BPF programs into native/bpf/objects, which is committed: nobody needs clang to build Meltemi.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { compile, missing, OBJECTS, programs, REMEDY } from "./bpf-toolchain.mjs";

const lacks = missing();
if (lacks.length > 0) {
  console.error(`build-bpf: cannot compile: ${lacks.join("; ")}. ${REMEDY}`);
  process.exit(1);
}
mkdirSync(OBJECTS, { recursive: true });
for (const name of programs()) {
  compile(name, join(OBJECTS, `${name}.bpf.o`));
  console.log(`build-bpf: native/bpf/objects/${name}.bpf.o`);
}
