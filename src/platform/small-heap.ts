import { setFlagsFromString } from "node:v8";

/**
 * Keeps the heap close to what lives in it. To be called before anything else; each flag is read when the heap
 * would grow.
 *
 * - The young generation stays at its first size (1 MB a half) instead of growing to 16 MB.
 * - The old one is collected when it is 30 % larger than what was left by the last time, instead of up to four
 *   times: after a large file is read anew, what was made of its former version is hundreds of megabytes.
 *
 * A process that lives long and allocates little at a time collects somewhat more often for it.
 */
export function keepHeapSmall(): void {
  setFlagsFromString("--semi-space-growth-factor=1");
  setFlagsFromString("--heap-growing-percent=30");
}
