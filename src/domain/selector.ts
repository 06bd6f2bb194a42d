/** Whether labels have all that a selector asks for; an empty or absent one asks for nothing. */
export function selects(
  selector: ReadonlyMap<string, string> | undefined,
  labels: ReadonlyMap<string, string>,
): boolean {
  for (const [key, value] of selector ?? []) if (labels.get(key) !== value) return false;
  return true;
}

/** `app=cart,version=v1`. */
export function selectorText(selector: ReadonlyMap<string, string>): string {
  return [...selector].map(([key, value]) => `${key}=${value}`).join(",");
}
