/**
 * The waypoint act: a kitchen in two versions of one service account, behind a waypoint of that account, which also
 * takes the requests to its service. An oven burns every second dish.
 */
import { stringify } from "yaml";
import type { LabPod } from "./lab/topology.js";

export const kitchenVip = "10.96.0.30";
export const kitchenPort = 8080;
export const ovenVip = "10.96.0.31";
export const waypointName = "kitchen-wp";

type Manifest = Record<string, unknown>;

const documents = (manifests: readonly Manifest[]): string =>
  manifests.map((manifest) => stringify(manifest)).join("---\n");

const meta = (name: string, more: object = {}): object => ({ name, namespace: "shop", ...more });

function service(name: string, clusterIP: string, selector: object): Manifest {
  return {
    apiVersion: "v1",
    kind: "Service",
    metadata: meta(name, name === "kitchen" ? { labels: { "istio.io/use-waypoint": waypointName } } : {}),
    spec: { clusterIP, selector, ports: [{ name: "http", port: kitchenPort, targetPort: kitchenPort }] },
  };
}

export function services(): string {
  return documents([
    service("kitchen", kitchenVip, { app: "kitchen" }),
    service("kitchen-v1", "10.96.0.32", { app: "kitchen", version: "v1" }),
    service("kitchen-v2", "10.96.0.33", { app: "kitchen", version: "v2" }),
    service("oven", ovenVip, { app: "oven" }),
  ]);
}

/** The waypoint; `guards` the account's pods however they are addressed. */
export function gateway({ netns, ip }: LabPod, guards = true): string {
  const annotations = {
    "meltemi.io/netns": netns,
    ...(guards ? { "istio.io/for-service-account": "kitchen" } : {}),
  };
  return documents([
    {
      apiVersion: "gateway.networking.k8s.io/v1",
      kind: "Gateway",
      metadata: meta(waypointName, { annotations }),
      spec: {
        gatewayClassName: "meltemi-waypoint",
        addresses: [{ type: "IPAddress", value: ip }],
        listeners: [{ name: "mesh", port: 15008, protocol: "HBONE" }],
      },
    },
  ]);
}

/** What of the routes a row may change. */
export interface Routes {
  /** Percent of the menu's requests for v2. */
  readonly canary: number;
  /** Whether who asks for the canary gets it. */
  readonly byHeader: boolean;
  readonly retries: number;
}

export const routesInForce: Routes = { canary: 20, byHeader: true, retries: 3 };

export function routes(wanted: Partial<Routes> = {}): string {
  const { canary, byHeader, retries } = { ...routesInForce, ...wanted };
  const to = (name: string, weight: number): object => ({ name, port: kitchenPort, weight });
  const under = (value: string): object => ({ path: { type: "PathPrefix", value } });
  return documents([
    {
      apiVersion: "gateway.networking.k8s.io/v1",
      kind: "HTTPRoute",
      metadata: meta("kitchen"),
      spec: {
        parentRefs: [{ group: "", kind: "Service", name: "kitchen", port: kitchenPort }],
        rules: [
          ...(byHeader
            ? [
                {
                  matches: [{ ...under("/menu"), headers: [{ name: "x-canary", value: "yes" }] }],
                  backendRefs: [to("kitchen-v2", 1)],
                },
              ]
            : []),
          {
            matches: [under("/menu"), under("/orders"), under("/till")],
            backendRefs: [to("kitchen-v1", 100 - canary), to("kitchen-v2", canary)],
          },
          {
            matches: [under("/oven")],
            backendRefs: [to("oven", 1)],
            ...(retries > 0 ? { retry: { codes: [503], attempts: retries, backoff: "1ms" } } : {}),
          },
        ],
      },
    },
  ]);
}

/** Of the requests for soup, so many percent get an error from the waypoint in the kitchen's stead. */
export function fault(percent: number): string {
  return documents([
    {
      apiVersion: "networking.istio.io/v1",
      kind: "VirtualService",
      metadata: meta("kitchen"),
      spec: {
        hosts: ["kitchen"],
        http: [
          {
            match: [{ uri: { prefix: "/soup" } }],
            fault: { abort: { httpStatus: 418, percentage: { value: percent } } },
            route: [{ destination: { host: "kitchen" } }],
          },
        ],
      },
    },
  ]);
}

/** Who may do what in the kitchen. `methods` false forgets to say which ways of asking are meant. */
export function policy({ methods = true } = {}): string {
  const principals = ["frontend", "courier"].map((name) => `cluster.local/ns/shop/sa/${name}`);
  const only = (list: readonly string[]): object => (methods ? { methods: list } : {});
  return documents([
    {
      apiVersion: "security.istio.io/v1",
      kind: "AuthorizationPolicy",
      metadata: meta("kitchen-guests"),
      spec: {
        targetRefs: [{ group: "", kind: "Service", name: "kitchen" }],
        action: "ALLOW",
        rules: [
          {
            from: [{ source: { principals } }],
            to: [
              { operation: { ...only(["GET"]), paths: ["/menu*", "/soup*", "/oven*", "/till*"] } },
              { operation: { ...only(["POST"]), paths: ["/orders"] } },
            ],
          },
        ],
      },
    },
  ]);
}

/** Whose tokens the till believes. */
export const issuer = "https://shop.example";

/** The till answers only who has a token of the issuer, whose keys are given; `required` false forgets that it must. */
export function tokens(jwks: string, { required = true } = {}): string {
  const targetRefs = [{ group: "", kind: "Service", name: "kitchen" }];
  return documents([
    {
      apiVersion: "security.istio.io/v1",
      kind: "RequestAuthentication",
      metadata: meta("kitchen-tokens"),
      spec: { targetRefs, jwtRules: [{ issuer, jwks }] },
    },
    ...(required
      ? [
          {
            apiVersion: "security.istio.io/v1",
            kind: "AuthorizationPolicy",
            metadata: meta("kitchen-till"),
            spec: {
              targetRefs,
              action: "DENY",
              rules: [
                {
                  from: [{ source: { notRequestPrincipals: [`${issuer}/*`] } }],
                  to: [{ operation: { paths: ["/till*"] } }],
                },
              ],
            },
          },
        ]
      : []),
  ]);
}
