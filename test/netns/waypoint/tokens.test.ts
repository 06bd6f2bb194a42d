/** Who may, as a person meets it: tokens of a real issuer, and authorizers that are asked, over real sockets. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { afterAll, beforeAll, expect, test } from "vitest";
import { startIn } from "../../../demo/lab/command.js";
import { eventually } from "../../helpers/eventually.js";
import { Mesh, root } from "../standalone/mesh.js";
import { Issuer } from "./issuer.js";

const mesh = new Mesh("tk", "/run/meltemi/tokens-test");
const web = join(import.meta.dirname, "web.mjs");
const testkit = join(root, "target/release/meltemi-testkit");
const issuer = new Issuer();
const away = "http://127.0.0.1:9";
const first = Issuer.key("ES256", "first");
const second = Issuer.key("RS256", "second");
const servers: ReturnType<typeof startIn>[] = [];

const echo = "http://10.96.2.1";
const patienceMs = 30_000;

function put(file: string, ...documents: readonly object[]): void {
  writeFileSync(join(mesh.config, file), documents.map((one) => JSON.stringify(one)).join("\n---\n"));
}

function service(name: string, clusterIP: string, ports: readonly object[], labels: object): object {
  const metadata = { name, namespace: "shop", labels };
  return { apiVersion: "v1", kind: "Service", metadata, spec: { clusterIP, selector: { app: name }, ports } };
}

function policy(kind: string, name: string, spec: object): object {
  const metadata = { name, namespace: "shop" };
  const targetRefs = [{ group: "", kind: "Service", name: "echo" }];
  return { apiVersion: "security.istio.io/v1", kind, metadata, spec: { targetRefs, ...spec } };
}

interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

async function ask(
  path: string,
  headers: Readonly<Record<string, string>> = {},
  more: { readonly method?: string; readonly body?: string } = {},
): Promise<Answer> {
  const netns = `--net=/run/netns/${mesh.topology.pod("front").netns}`;
  const args = ["ask", `${echo}${path}`, more.method ?? "GET", JSON.stringify(headers), more.body ?? ""];
  const { stdout } = await execa("nsenter", [netns, "--", process.execPath, web, ...args]);
  return JSON.parse(stdout) as Answer;
}

const bearer = (token: string): Record<string, string> => ({ authorization: `Bearer ${token}` });

/** What the endpoint was asked. */
function seen({ body }: Answer): {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
} {
  return JSON.parse(body) as { url: string; headers: Record<string, string>; body: string };
}

async function until(what: string, good: () => Promise<boolean>): Promise<void> {
  await eventually(what, good, patienceMs);
}

interface PolicyStatus {
  readonly kind: string;
  readonly name: string;
  readonly status: readonly { readonly type: string; readonly status: string; readonly reason: string }[];
}

async function reasonOf(kind: string, name: string, type: string): Promise<string | undefined> {
  const policies = await mesh.cli<readonly PolicyStatus[]>("policies");
  const found = policies.find((one) => one.kind === kind && one.name === name);
  return found?.status.find((condition) => condition.type === type)?.reason;
}

beforeAll(async () => {
  mkdirSync(mesh.config, { recursive: true });
  await issuer.up();
  issuer.publish(first);
  await mesh.up();
  for (const [name, node, host] of [
    ["echo", "n1", 20],
    ["authz", "n2", 21],
    ["echo-wp", "n1", 40],
  ] as const)
    await mesh.topology.addPod(name, node, host);
  const start = (pod: string, ...args: readonly string[]): void => {
    servers.push(startIn(mesh.topology.pod(pod).netns, process.execPath, [web, ...args]));
  };
  start("echo", "echo", "8080");
  start("authz", "authorizer-http", "8000");
  start("authz", "authorizer-grpc", "9000");
  for (const pod of ["echo", "authz"]) mesh.writePod(pod);
  const { netns, ip } = mesh.topology.pod("echo-wp");
  put(
    "echo.json.yaml",
    service("echo", "10.96.2.1", [{ name: "http", port: 80, targetPort: 8080 }], {
      "istio.io/use-waypoint": "echo-wp",
    }),
    service(
      "authz",
      "10.96.2.2",
      [
        { name: "http", port: 8000 },
        { name: "grpc", port: 9000 },
      ],
      {},
    ),
    {
      apiVersion: "gateway.networking.k8s.io/v1",
      kind: "Gateway",
      metadata: { name: "echo-wp", namespace: "shop", annotations: { "meltemi.io/netns": netns } },
      spec: {
        gatewayClassName: "meltemi-waypoint",
        addresses: [{ type: "IPAddress", value: ip }],
        listeners: [{ name: "mesh", port: 15008, protocol: "HBONE" }],
      },
    },
  );
  const authorizer = { service: "authz.shop.svc.cluster.local", timeout: "5s" };
  const body = { maxRequestBytes: 8, allowPartialMessage: true, packAsBytes: true };
  put("mesh-config.yaml", {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: { name: "istio", namespace: "istio-system" },
    data: {
      mesh: JSON.stringify({
        extensionProviders: [
          {
            name: "plain",
            envoyExtAuthzHttp: {
              ...authorizer,
              port: 8000,
              pathPrefix: "/check",
              includeRequestHeadersInCheck: ["x-l*", "x-secret"],
              includeAdditionalHeadersInCheck: { "x-mesh": "shop" },
              includeRequestBodyInCheck: body,
              headersToUpstreamOnAllow: ["x-checked"],
              headersToDownstreamOnDeny: ["x-why"],
              headersToDownstreamOnAllow: ["x-for-client"],
            },
          },
          {
            name: "rpc",
            envoyExtAuthzGrpc: {
              ...authorizer,
              port: 9000,
              includeRequestBodyInCheck: body,
              statusOnError: "503",
            },
          },
          { name: "open", envoyExtAuthzGrpc: { ...authorizer, port: 9000, failOpen: true } },
          { name: "nowhere", envoyExtAuthzGrpc: { ...authorizer, port: 9999, timeout: "2s" } },
        ],
      }),
    },
  });
  mesh.start();
  await mesh.ready("n1", "n2");
  let last: unknown;
  const answered = async (): Promise<boolean> => {
    last = await ask("/").catch((error: unknown) => String(error));
    return (last as Answer).status === 200;
  };
  await until("a request through the waypoint", answered).catch((error: unknown) => {
    throw new Error(`${String(error)}; last: ${JSON.stringify(last)}`, { cause: error });
  });
}, 90_000);

afterAll(async () => {
  for (const server of servers) server.kill("SIGKILL");
  issuer.down();
  await mesh.down();
}, 60_000);

test("a token is required, verified, and turned into headers", async () => {
  put(
    "tokens.yaml",
    policy("RequestAuthentication", "tokens", {
      jwtRules: [
        {
          issuer: issuer.name,
          jwksUri: `${issuer.name}/keys`,
          audiences: ["shop"],
          outputClaimToHeaders: [
            { header: "x-user", claim: "sub" },
            { header: "x-team", claim: "realm.team" },
          ],
        },
      ],
    }),
    policy("AuthorizationPolicy", "readers", {
      rules: [
        {
          from: [{ source: { requestPrincipals: [`${issuer.name}/*`] } }],
          when: [{ key: "request.auth.claims[realm][roles]", values: ["reader"] }],
        },
      ],
    }),
  );
  const claims = { realm: { roles: ["writer", "reader"], team: "blue" } };
  const good = issuer.token(first, claims);
  await until("the token to be let in", async () => (await ask("/x", bearer(good))).status === 200);
  const answer = await ask("/x", { ...bearer(good), "x-user": "root", "x-team": "root" });
  expect(seen(answer).headers).toMatchObject({ "x-user": "ann", "x-team": "blue" });
  expect(seen(answer).headers).not.toHaveProperty("authorization");
  const none = await ask("/x");
  expect([none.status, none.headers["x-meltemi-refused"]]).toEqual([
    403,
    "policy_denied; policy=shop/readers",
  ]);
  expect((await ask("/x", bearer(issuer.token(first)))).status, "without the role").toBe(403);
  for (const [what, token] of [
    ["another audience", issuer.token(first, { ...claims, aud: "bank" })],
    ["expired", issuer.token(first, { ...claims, exp: 1 })],
    ["a key that was not published", issuer.token(second, claims)],
    ["no token at all", "x.y.z"],
  ] as const) {
    const refused = await ask("/x", bearer(token));
    expect([refused.status, refused.headers["x-meltemi-refused"]], what).toEqual([401, "invalid_token"]);
    expect(refused.headers["www-authenticate"], what).toBe('Bearer error="invalid_token"');
  }
  expect(seen(await ask(`/x?a=1&access_token=${good}`)).url).toBe("/x?a=1");
  expect(await reasonOf("RequestAuthentication", "tokens", "ResolvedRefs")).toBe("ResolvedRefs");
});

test("keys change while requests run, and none fails", async () => {
  const claims = { realm: { roles: ["reader"] } };
  const [old, young] = [issuer.token(first, claims), issuer.token(second, claims)];
  const traffic = (token: string): { stop: () => Promise<{ requests: number; ok: number }> } => {
    const args = ["client", "http", "--url", `${echo}/`, "--header", `authorization: Bearer ${token}`];
    const client = startIn(mesh.topology.pod("front").netns, testkit, [
      ...args,
      "--until-signal",
      "--interval-ms",
      "5",
    ]);
    servers.push(client);
    let output = "";
    client.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
    return {
      stop: async () => {
        const closed = new Promise((resolve) => client.once("close", resolve));
        client.kill("SIGTERM");
        await closed;
        return JSON.parse(output.trim().split("\n").at(-1) ?? "{}") as { requests: number; ok: number };
      },
    };
  };
  const before = traffic(old);
  expect((await ask("/", bearer(young))).status).toBe(401);
  issuer.publish(first, second);
  await until("the new key", async () => (await ask("/", bearer(young))).status === 200);
  const after = traffic(young);
  const old_ = await before.stop();
  issuer.publish(second);
  await until("the old key's end", async () => (await ask("/", bearer(old))).status === 401);
  const young_ = await after.stop();
  for (const { requests, ok } of [old_, young_]) {
    expect(requests).toBeGreaterThan(10);
    expect(ok).toBe(requests);
  }
}, 60_000);

test("an issuer whose keys cannot be had: its tokens are refused, and its object says so", async () => {
  const lost = { issuer: "lost", jwksUri: `${away}/keys` };
  put("lost.yaml", policy("RequestAuthentication", "lost", { jwtRules: [lost] }));
  await until(
    "the reason",
    async () => (await reasonOf("RequestAuthentication", "lost", "ResolvedRefs")) === "KeysNotFetched",
  );
  const token = issuer.token(second, { iss: "lost", realm: { roles: ["reader"] } });
  expect((await ask("/", bearer(token))).status).toBe(401);
  const discovered = { issuer: issuer.name };
  put("lost.yaml", policy("RequestAuthentication", "lost", { jwtRules: [discovered] }));
  await until(
    "keys by discovery",
    async () => (await reasonOf("RequestAuthentication", "lost", "ResolvedRefs")) === "ResolvedRefs",
  );
});

const ways = [
  ["plain", "GET /check/ask/plain?q=1", "s3cret shop"],
  ["rpc", "GET /ask/rpc?q=1", "spiffe://cluster.local/ns/shop/sa/front 10.96.2.1"],
] as const;

test.each(ways)("an authorizer is asked first: %s", async (provider, line, rest) => {
  put("tokens.yaml");
  put("lost.yaml");
  put(
    "ask.yaml",
    ...["plain", "rpc", "open", "nowhere", "unknown"].map((name) =>
      policy("AuthorizationPolicy", `ask-${name}`, {
        action: "CUSTOM",
        provider: { name },
        rules: [{ to: [{ operation: { paths: [`/ask/${name}`] } }] }],
      }),
    ),
    policy("AuthorizationPolicy", "never", {
      action: "DENY",
      rules: [{ when: [{ key: "request.headers[x-deny]", values: ["*"] }] }],
    }),
  );
  const path = `/ask/${provider}?q=1`;
  await until("the authorizer's no", async () => (await ask(path)).status === 401);
  const denied = await ask(path, { "x-secret": "s3cret" });
  expect(denied.headers).toMatchObject({
    "x-why": "not let in",
    "x-meltemi-refused": `external_denied; policy=shop/ask-${provider}`,
  });
  expect(denied.body).toBe(`no: ${line} ${provider === "rpc" ? ` ${rest}` : ""}`);
  const allowed = await ask(
    path,
    { "x-let": "in", "x-secret": "s3cret", "x-checked": "by myself" },
    { method: "GET" },
  );
  expect(allowed.status).toBe(200);
  expect(allowed.headers["x-for-client"]).toBe("hello");
  expect(allowed.headers).not.toHaveProperty("x-other");
  expect(seen(allowed).headers["x-checked"]).toBe(`${line}  ${rest}`);
  const posted = await ask(
    path,
    { "x-let": "in", "x-secret": "s3cret" },
    { method: "POST", body: "a body of some length" },
  );
  expect(seen(posted).body, "the endpoint gets all of it").toBe("a body of some length");
  expect(seen(posted).headers["x-checked"], "the authorizer its begin").toContain(" a body o ");
  const deny = await ask(path, { "x-let": "in", "x-deny": "1" });
  expect([deny.status, deny.headers["x-meltemi-refused"]]).toEqual([403, "policy_denied; policy=shop/never"]);
  expect((await ask("/elsewhere")).status, "not asked about").toBe(200);
});

test("an authorizer that fails, or is nowhere, or unknown", async () => {
  const broken = { "x-let": "break" };
  const refusal = async (name: string): Promise<readonly unknown[]> => {
    const { status, headers } = await ask(`/ask/${name}`, broken);
    return [status, headers["x-meltemi-refused"]];
  };
  expect(await refusal("plain")).toEqual([403, "external_failed; policy=shop/ask-plain"]);
  expect(await refusal("rpc")).toEqual([503, "external_failed; policy=shop/ask-rpc"]);
  expect((await ask("/ask/open", broken)).status, "its user chose so").toBe(200);
  expect((await ask("/ask/open", {})).status, "a no is a no").toBe(401);
  expect(await refusal("nowhere")).toEqual([403, "external_failed; policy=shop/ask-nowhere"]);
  expect(await refusal("unknown")).toEqual([403, "policy_denied; policy=shop/ask-unknown"]);
  expect(await reasonOf("AuthorizationPolicy", "ask-unknown", "ResolvedRefs")).toBe("ProviderNotFound");
  const records = readFileSync(join(mesh.state, "logs/waypoint-shop.echo-wp.log"), "utf8");
  expect(records).toContain("external_failed");
});
