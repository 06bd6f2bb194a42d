/** Fields that several of Istio's traffic objects have. */
import { isDnsLabel, isDnsSubdomain } from "../../domain/kube-names.js";
import { type Fields, portRange } from "./fields.js";
import { present } from "./shared.js";

/** A service's host: a name, `*`, or a wildcard of one leading star. */
export function checkHost(fields: Fields, path: string, host: string): boolean {
  const plain = host === "*" ? "a" : host.startsWith("*.") ? host.slice(2) : host;
  if (isDnsSubdomain(plain.toLowerCase())) return true;
  const hint = "such as reviews, reviews.shop.svc.cluster.local or *.example";
  fields.report.error(path, { value: host, message: "is not a host name", hint });
  return false;
}

/** `exportTo`: namespaces, `.` for the object's own, `*` for all, `~` for none. */
export function readExportTo(spec: Fields): string[] {
  return present(
    spec.strings("exportTo").map(({ value, path }) => {
      if (value === "." || value === "*" || value === "~" || isDnsLabel(value)) return value;
      spec.report.error(path, { value, message: "is not a namespace", hint: 'a name, "." or "*"' });
      return undefined;
    }),
  );
}

/** `port.number`. */
export function readPortSelector(fields: Fields): number | undefined {
  const port = fields.child("port");
  if (!port) return undefined;
  const number = port.integer("number", portRange);
  if (number === undefined && !port.has("number"))
    port.report.error(port.at("number"), { message: "is missing" });
  port.refuseUnknown();
  return number;
}

/** `{ value: 12.5 }` or a deprecated whole number of percent, of a million requests; undefined where neither is given. */
export function readPercentage(
  fields: Fields,
  key: string,
  deprecated: readonly string[] = [],
): number | undefined {
  const share = fields.child(key);
  const written = share?.raw("value");
  share?.refuseUnknown();
  if (share) {
    if (typeof written === "number" && written >= 0 && written <= 100) return Math.round(written * 10_000);
    // As protobuf has it: a value that is not written is 0.
    if (written === undefined) return 0;
    const message = "must be a number from 0 to 100";
    share.report.error(share.at("value"), { value: written, message });
    return 0;
  }
  for (const old of deprecated) {
    const percent = fields.integer(old, { min: 0, max: 100 });
    if (percent !== undefined) return percent * 10_000;
  }
  return undefined;
}
