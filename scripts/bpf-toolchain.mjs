// How the BPF objects in native/bpf/objects are compiled: by one version of Debian 12's clang, with the headers of
// its libbpf-dev and linux-libc-dev, so that the same sources give the same bytes on every machine.
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";

export const SOURCES = join(import.meta.dirname, "..", "native", "bpf");
export const OBJECTS = join(SOURCES, "objects");

const CLANG_VERSION = "14.0.6";
/** Debian's names of the architectures whose headers may be used; the object is the same. */
const HEADERS = ["/usr/include/x86_64-linux-gnu", "/usr/include/aarch64-linux-gnu"];

/** The programs' names: native/bpf/NAME.bpf.c becomes native/bpf/objects/NAME.bpf.o. */
export function programs() {
  return readdirSync(SOURCES)
    .filter((name) => name.endsWith(".bpf.c"))
    .map((name) => name.slice(0, -".bpf.c".length))
    .sort();
}

/** What the machine lacks to compile them, as sentences; empty when it has everything. */
export function missing() {
  const lacks = [];
  for (const command of ["clang-14", "llvm-strip-14"]) {
    const version = versionOf(command);
    if (version === undefined) lacks.push(`${command} is not installed`);
    else if (version !== CLANG_VERSION)
      lacks.push(`${command} is ${version}, the pinned version is ${CLANG_VERSION}`);
  }
  if (!existsSync("/usr/include/bpf/bpf_helpers.h"))
    lacks.push("bpf/bpf_helpers.h is not installed (libbpf-dev)");
  if (headers() === undefined) lacks.push("asm/types.h is not installed (linux-libc-dev)");
  return lacks;
}

export const REMEDY = "on Debian 12, as root: apt-get install clang-14 llvm-14 libbpf-dev linux-libc-dev";

/**
 * Compiles one program into `output`. Throws where that fails; the compiler has said why.
 * @param {string} name
 * @param {string} output
 */
export function compile(name, output) {
  const options = [
    "-target",
    "bpfel",
    "-mcpu=v3",
    "-O2",
    "-g",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unused-function",
  ];
  // Nothing of the machine in the object: neither the place of the sources nor that of the build.
  const reproducible = ["-fdebug-compilation-dir=.", "-fno-ident"];
  execFileSync(
    "clang-14",
    [...options, ...reproducible, "-I", headers() ?? "", "-c", `${name}.bpf.c`, "-o", output],
    {
      cwd: SOURCES,
      stdio: ["ignore", "inherit", "inherit"],
    },
  );
  // BTF stays, DWARF goes.
  execFileSync("llvm-strip-14", ["-g", output], { stdio: ["ignore", "inherit", "inherit"] });
}

function headers() {
  return HEADERS.find((directory) => existsSync(join(directory, "asm", "types.h")));
}

/** @param {string} command */
function versionOf(command) {
  try {
    return /version (\S+)/.exec(execFileSync(command, ["--version"], { encoding: "utf8" }))?.[1];
  } catch {
    return undefined;
  }
}
