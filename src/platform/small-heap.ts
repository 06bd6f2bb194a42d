import { setFlagsFromString } from "node:v8";

/**
 * Keeps the heap's young generation at its first size (1 MB a half) instead of growing to 16 MB: a process that
 * lives long and allocates little at a time collects somewhat more often, and is 30 to 50 MB smaller.
 * To be called before anything else; it is read each time the young generation would grow.
 */
export function keepHeapSmall(): void {
  setFlagsFromString("--semi-space-growth-factor=1");
}
