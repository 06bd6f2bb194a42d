import { afterEach, beforeEach, expect, test } from "vitest";
import { KubeApiDouble } from "../../test/helpers/kube-api-double.js";
import { VirtualClock } from "../../test/helpers/virtual-clock.js";
import { ServiceAccountCallers, type TokenReviewOptions } from "./token-review.js";

interface User {
  readonly username: string;
  readonly audiences?: readonly string[];
  readonly extra?: Readonly<Record<string, readonly string[]>>;
}

const agent = "system:serviceaccount:meltemi-system:meltemi-node";
const onNode = (node: string): User => ({
  username: agent,
  extra: {
    "authentication.kubernetes.io/node-name": [node],
    "authentication.kubernetes.io/pod-name": [`meltemi-node-${node}`],
    "authentication.kubernetes.io/pod-uid": [`uid-${node}`],
  },
});

let double: KubeApiDouble;
let clock: VirtualClock;
/** What the API server knows, by token. */
let users: Map<string, User>;
let reviews: number;
let away: boolean;

beforeEach(async () => {
  clock = new VirtualClock();
  users = new Map();
  reviews = 0;
  away = false;
  double = await KubeApiDouble.start(({ path, body }) => {
    if (path !== "/apis/authentication.k8s.io/v1/tokenreviews") return undefined;
    reviews += 1;
    if (away) return { status: 503, body: {} };
    const { token, audiences } = (body as { spec: { token: string; audiences: string[] } }).spec;
    const user = users.get(token);
    const common = (user?.audiences ?? ["istio-ca"]).filter((one) => audiences.includes(one));
    return {
      status: 201,
      body: {
        status:
          user === undefined || common.length === 0
            ? { authenticated: false, error: "invalid bearer token" }
            : { authenticated: true, audiences: common, user },
      },
    };
  });
});
afterEach(() => double.close());

/** A token that says this of itself, signed by nobody. */
function token(claims: { sub?: string; aud?: string[]; expiresInS?: number; id?: string } = {}): string {
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  const { sub = agent, aud = ["istio-ca"], expiresInS = 3_600, id = "" } = claims;
  const exp = Math.floor(clock.now() / 1000) + expiresInS;
  return `${part({ alg: "RS256" })}.${part({ sub, aud, exp, id })}.c2lnbmF0dXJl`;
}

const callers = (options: Partial<TokenReviewOptions> = {}): ServiceAccountCallers =>
  new ServiceAccountCallers({
    api: double.api,
    clock,
    nodeAccounts: new Set(["meltemi-system/meltemi-node"]),
    isWaypoint: () => false,
    nodeOfPod: () => undefined,
    ...options,
  });

const login = (over: ServiceAccountCallers, text: string, peer = "test"): Promise<string> =>
  over.authenticate({ authorization: `Bearer ${text}`, peer });

/** An API server without a network, that answers when it is told to. */
function reviewer(answer: (token: string) => Promise<User | undefined>): TokenReviewOptions["api"] {
  return {
    call: async ({ body }) => {
      const user = await answer((body as { spec: { token: string } }).spec.token);
      return { status: { authenticated: user !== undefined, audiences: ["istio-ca"], user } };
    },
    stream: () => {
      throw new Error("no stream");
    },
  };
}

test("a node agent is the node that its token's pod runs on", async () => {
  const known = callers();
  const [one, two] = [token({ id: "1" }), token({ id: "2" })];
  users.set(one, onNode("n1")).set(two, onNode("n2"));
  expect(await login(known, one)).toBe("n1");
  expect(await login(known, two)).toBe("n2");
});

test("a token that names no node is its pod's, where the mesh knows the pod by its uid", async () => {
  const text = token();
  const { "authentication.kubernetes.io/node-name": _, ...extra } = onNode("n1").extra ?? {};
  users.set(text, { username: agent, extra });
  const known = callers({
    nodeOfPod: (...pod) => (pod.join("/") === "meltemi-system/meltemi-node-n1/uid-n1" ? "n1" : undefined),
  });
  expect(await login(known, text)).toBe("n1");
  await expect(login(callers(), text)).rejects.toThrow(/bound to no pod on a node/);
});

test("nobody else is let in, and the API server is not asked about those who say so themselves", async () => {
  const known = callers();
  await expect(login(known, token({ sub: "system:serviceaccount:shop:cart" }))).rejects.toThrow(
    /no node agent/,
  );
  await expect(login(known, token({ aud: ["vault"] }))).rejects.toThrow(/audience/);
  await expect(login(known, token({ expiresInS: -1 }))).rejects.toThrow(/expired/);
  await expect(login(known, "not-a-token-of-any-service-account")).rejects.toThrow(/no service account's/);
  await expect(known.authenticate({ authorization: undefined, peer: "test" })).rejects.toThrow(/no token/);
  expect(reviews).toBe(0);
});

test("what a token says of itself is not believed", async () => {
  const forged = token();
  await expect(login(callers(), forged)).rejects.toThrow(/does not accept/);
  const borrowed = token({ id: "2" });
  users.set(borrowed, { ...onNode("n1"), username: "system:serviceaccount:shop:cart" });
  await expect(login(callers(), borrowed)).rejects.toThrow(/no node agent/);
  const elsewhere = token({ id: "3" });
  users.set(elsewhere, { ...onNode("n1"), audiences: ["https://kubernetes.default.svc"] });
  await expect(login(callers(), elsewhere)).rejects.toThrow(/does not accept/);
});

test("an answer without audiences is no answer for ours", async () => {
  const text = token();
  const api = { call: () => Promise.resolve({ status: { authenticated: true, user: onNode("n1") } }) };
  const known = callers({
    api: {
      ...api,
      stream: () => {
        throw new Error("no stream");
      },
    },
  });
  await expect(login(known, text)).rejects.toThrow(/audience/);
});

test("a verdict is remembered for a minute at most, never beyond the token's end, and one at a time is asked for", async () => {
  const known = callers();
  const text = token({ expiresInS: 30 });
  users.set(text, onNode("n1"));
  await Promise.all([login(known, text), login(known, text), login(known, text)]);
  expect(reviews).toBe(1);
  await clock.advance(29_000);
  await login(known, text);
  expect(reviews).toBe(1);
  await clock.advance(2_000);
  await expect(login(known, text)).rejects.toThrow(/expired/);
  const long = token();
  users.set(long, onNode("n1"));
  await login(known, long);
  users.delete(long);
  await clock.advance(61_000);
  await expect(login(known, long)).rejects.toThrow(/does not accept/);
});

test("an API server that is away lets nobody new in, and is asked again at once", async () => {
  const known = callers();
  const text = token();
  users.set(text, onNode("n1"));
  away = true;
  await expect(login(known, text)).rejects.toMatchObject({ code: "unavailable" });
  away = false;
  expect(await login(known, text)).toBe("n1");
});

test("a waypoint is known by the account of its own name, with a token that is bound to its pod", async () => {
  const username = "system:serviceaccount:shop:gate";
  const [bound, loose] = [token({ sub: username }), token({ sub: username, id: "made by hand" })];
  users.set(bound, { username, extra: { "authentication.kubernetes.io/pod-uid": ["uid-gate"] } });
  users.set(loose, { username });
  const known = callers({ isWaypoint: (...name) => name.join("/") === "shop/gate" });
  expect(await login(known, bound)).toBe("waypoint:shop/gate");
  await expect(login(known, loose)).rejects.toThrow(/waypoint shop\/gate is bound to no pod/);
});

test("one address has few tokens before the API server at once, whatever its ports, and others get in", async () => {
  let open = (): void => undefined;
  const gate = new Promise<void>((resolve) => (open = resolve));
  const known = callers({
    api: reviewer(async (text) => {
      await gate;
      return users.get(text);
    }),
  });
  const forged = Array.from({ length: 40 }, (_, index) =>
    login(known, token({ id: `${index}` }), `[fd00::1]:${40_000 + index}`).then(
      () => "accepted",
      (error: unknown) => (error as { code: string }).code,
    ),
  );
  const good = token({ id: "good" });
  users.set(good, onNode("n1"));
  const other = login(known, good, "10.0.0.2:40000");
  open();
  expect(await other).toBe("n1");
  const outcomes = await Promise.all(forged);
  expect(outcomes.filter((one) => one === "unauthenticated")).toHaveLength(4);
  expect(outcomes.filter((one) => one === "unavailable")).toHaveLength(36);
  // Its places are free again.
  const late = token({ id: "late" });
  users.set(late, onNode("n2"));
  expect(await login(known, late, "[fd00::1]:50000")).toBe("n2");
});

test("forged tokens drive out nobody who was accepted", async () => {
  let asked = 0;
  const known = callers({
    api: reviewer((text) => {
      asked += 1;
      return Promise.resolve(users.get(text));
    }),
  });
  const good = token({ id: "good" });
  users.set(good, onNode("n1"));
  await login(known, good);
  for (let index = 0; index < 16_400; index++)
    await login(known, token({ id: `${index}` })).catch(() => undefined);
  expect(asked).toBe(16_401);
  expect(await login(known, good)).toBe("n1");
  expect(asked).toBe(16_401);
});
