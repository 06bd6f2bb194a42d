import { copyFile, open, stat, truncate } from "node:fs/promises";

/**
 * Keeps a log that another process appends to within bounds: its content goes to `PATH.1` and the file is
 * emptied. The writer has it open for appending and goes on at the new end. A line written between the two
 * steps is lost; the alternative, a pipe through the agent, would end the data plane's log with the agent.
 */
export async function boundLog(path: string, maxBytes: number): Promise<void> {
  let size: number;
  try {
    ({ size } = await stat(path));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw error;
  }
  if (size <= maxBytes) return;
  await copyFile(path, `${path}.1`);
  await truncate(path, 0);
}

/** The log's path, or `/dev/null` (which `onError` is told) where it cannot be opened for appending: a log is not worth a data plane. */
export async function openLog(path: string, onError: (error: unknown) => void): Promise<string> {
  try {
    const file = await open(path, "a", 0o600);
    await file.close();
    return path;
  } catch (error) {
    onError(error);
    return "/dev/null";
  }
}
