import { X509Certificate } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { kubeconfig, Pki } from "./pki.js";

let directory: string;
beforeEach(() => void (directory = mkdtempSync(join(tmpdir(), "meltemi-pki-"))));
afterEach(() => rmSync(directory, { recursive: true, force: true }));

test("a node's certificate names the node and its group, and only what it is for", () => {
  const pki = new Pki(directory, Date.now());
  const ca = new X509Certificate(readFileSync(pki.ca.certificate));
  const subject = { commonName: "system:node:n1", organization: "system:nodes" };
  const client = pki.client("n1", subject);
  const server = pki.server("n1-serving", subject, [{ type: "ip", value: "10.79.0.11" }]);

  const leaf = new X509Certificate(readFileSync(client.certificate));
  expect(leaf.subject).toBe("O=system:nodes\nCN=system:node:n1");
  expect(leaf.verify(ca.publicKey) && leaf.checkIssued(ca)).toBe(true);
  expect(leaf.ca).toBe(false);
  expect(ca.ca).toBe(true);
  const serving = new X509Certificate(readFileSync(server.certificate));
  expect(serving.checkIP("10.79.0.11")).toBe("10.79.0.11");
  expect(serving.checkIP("10.79.0.12")).toBeUndefined();
  // Server authentication only: not to be used as a client.
  expect(serving.keyUsage).toEqual(["1.3.6.1.5.5.7.3.1"]);
  for (const key of [pki.ca.key, client.key, server.key]) expect(statSync(key).mode & 0o777).toBe(0o600);

  const config = JSON.parse(kubeconfig("https://10.0.0.1:6443", pki.ca, client)) as {
    users: { user: Record<string, string> }[];
  };
  const inline = Buffer.from(config.users[0]?.user["client-certificate-data"] ?? "", "base64").toString();
  expect(inline).toBe(readFileSync(client.certificate, "utf8"));
});
