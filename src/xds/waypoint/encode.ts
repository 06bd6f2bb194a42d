/** Waypoint configuration as `meltemi.v1` messages. */
import type {
  CompiledBackend,
  CompiledFilter,
  CompiledHttpRoute,
  CompiledRequestPolicy,
  CompiledRule,
  CompiledServed,
  CompiledTarget,
  CompiledWaypoint,
  CompiledTrafficPolicy,
  CompiledWaypointConfig,
} from "../../compile/waypoint/config.js";
import type { HashKey } from "../../domain/destination-rule.js";
import type {
  NamedMatcher,
  PathChange,
  PathMatcher,
  RouteMatch,
  TextMatcher,
} from "../../domain/http-route.js";
import type { AuthorizationRule, Cidr, Matches } from "../../domain/objects.js";
import { stringMatchText } from "../../domain/string-match.js";
import type { Address } from "../../gen/istio/security/authorization.js";
import * as proto from "../../gen/meltemi/v1/waypoint.js";
import { addressBytes } from "../encode/bytes.js";
import { authenticationMessage, authorizerMessage, policyTarget } from "./encode-authentication.js";

export function encodeConfig(config: CompiledWaypointConfig): Uint8Array {
  switch (config.kind) {
    case "waypoint": {
      const slash = config.name.indexOf("/");
      const [namespace, name] = [config.name.slice(0, slash), config.name.slice(slash + 1)];
      const accessLogging = accessLoggingMessage(config);
      return proto.Waypoint.encode({
        namespace,
        name,
        http: undefined,
        accessLogging,
        requires: [],
      }).finish();
    }
    case "served":
      return proto.Served.encode(servedMessage(config)).finish();
    case "http_route":
      return proto.HttpRoute.encode(routeMessage(config)).finish();
    case "request_authentication":
      return proto.RequestAuthentication.encode(authenticationMessage(config)).finish();
    case "key_set":
      return proto.KeySet.encode({ jwks: Buffer.from(config.jwks), requires: [] }).finish();
    case "request_policy":
      return proto.HttpAuthorization.encode(policyMessage(config)).finish();
    case "traffic_policy":
      return proto.TrafficPolicy.encode(trafficMessage(config)).finish();
  }
}

function accessLoggingMessage({ accessLogging }: CompiledWaypoint): proto.AccessLogging | undefined {
  if (!accessLogging) return undefined;
  const { disabled, statuses } = accessLogging;
  // A filter that nothing meets.
  if (statuses?.length === 0) return { disabled: true, statuses: [] };
  return { disabled, statuses: [...(statuses ?? [])] };
}

const protocols = {
  tcp: proto.ServedPort_Protocol.TCP,
  http: proto.ServedPort_Protocol.HTTP,
  http2: proto.ServedPort_Protocol.HTTP2,
} as const;

function servedMessage({ served, ports }: CompiledServed): proto.Served {
  return {
    kind: served === "service" ? proto.Served_Kind.SERVICE : proto.Served_Kind.WORKLOAD,
    ports: ports.map(({ port, protocol, http2Backend }) => ({
      port,
      protocol: protocols[protocol],
      http2Backend,
    })),
    requires: [],
  };
}

function routeMessage(route: CompiledHttpRoute): proto.HttpRoute {
  return {
    namespace: route.namespace,
    name: route.routeName,
    sourceObject: route.sourceObject,
    order: proto.HttpRoute_Order[route.order],
    createdMs: route.createdMs,
    parents: route.parents.map(({ service, port }) => ({
      target: { $case: "service", value: service },
      port,
    })),
    hostnames: [...route.hostnames],
    consumerNamespace: route.consumerNamespace ?? "",
    rules: route.rules.map(ruleMessage),
    requires: [],
  };
}

function ruleMessage(rule: CompiledRule): proto.HttpRule {
  const { requestMs, backendRequestMs } = rule.timeouts;
  return {
    name: rule.name,
    matches: rule.matches.map(matchMessage),
    filters: rule.filters.map(filterMessage),
    backends: rule.backends.map(backendMessage),
    toParent: false,
    timeouts:
      requestMs === undefined && backendRequestMs === undefined
        ? undefined
        : { requestMs, backendRequestMs, idleMs: undefined },
    retry: rule.retry && {
      attempts: rule.retry.attempts,
      perTryTimeoutMs: rule.retry.perTryTimeoutMs,
      statuses: [...rule.retry.codes],
      connectFailure: rule.retry.connectFailure,
      reset: rule.retry.reset,
      grpcStatuses: [...rule.retry.grpcCodes],
      backoffMs: rule.retry.backoffMs,
      backoffMaxMs: undefined,
      budgetPerMillion: undefined,
    },
    invalid: "",
  };
}

function textMessage(match: TextMatcher): proto.TextMatch {
  if (match.type === "present") return { kind: { $case: "present", value: true }, ignoreCase: false };
  return { kind: { $case: match.type, value: match.value }, ignoreCase: match.ignoreCase === true };
}

function matchMessage(match: RouteMatch): proto.HttpMatch {
  const named = ({ name, value }: NamedMatcher): { name: string; value: proto.TextMatch } => ({
    name,
    value: textMessage(value),
  });
  return {
    path: match.path && { kind: pathKind(match.path), ignoreCase: foldsCase(match.path) },
    method: match.method && textMessage(match.method),
    authority: match.authority && textMessage(match.authority),
    scheme: match.scheme && textMessage(match.scheme),
    headers: match.headers.map((header) => ({ ...named(header), not: header.not === true })),
    query: match.query.map(named),
    sourceNamespaces: match.sourceNamespace === undefined ? [] : [match.sourceNamespace],
    port: match.port ?? 0,
  };
}

function pathKind({ type, value }: PathMatcher): proto.PathMatch["kind"] {
  return type === "grpc_method" ? { $case: "grpcMethod", value } : { $case: type, value };
}

function foldsCase(path: PathMatcher): boolean {
  return (path.type === "exact" || path.type === "prefix") && path.ignoreCase === true;
}

function pathChange(change: PathChange | undefined): proto.PathChange | undefined {
  if (change?.type !== "regex") return change && { kind: { $case: change.type, value: change.value } };
  const { pattern, substitution } = change;
  return { kind: { $case: "regex", value: { pattern, substitution } } };
}

function filterMessage(filter: CompiledFilter): proto.HttpFilter {
  switch (filter.type) {
    case "request_headers":
    case "response_headers": {
      const { set, add, remove } = filter.change;
      const value = { set: [...set], add: [...add], remove: [...remove] };
      return {
        kind: { $case: filter.type === "request_headers" ? "requestHeaders" : "responseHeaders", value },
      };
    }
    case "redirect":
      return {
        kind: {
          $case: "redirect",
          value: {
            scheme: filter.scheme ?? "",
            hostname: filter.hostname ?? "",
            port: filter.port ?? 0,
            path: pathChange(filter.path),
            status: filter.status,
            // Gateway API: the scheme's well-known port where a scheme and no port is given.
            dropPort: filter.port === undefined && filter.keepPort !== true,
          },
        },
      };
    case "rewrite":
      return {
        kind: {
          $case: "rewrite",
          value: { authority: filter.hostname ?? "", path: pathChange(filter.path) },
        },
      };
    case "mirror":
      return {
        kind: {
          $case: "mirror",
          value: {
            backend: targetMessage(filter.backend, 1, []),
            perMillion: filter.perMillion,
            all: filter.perMillion === 1_000_000,
          },
        },
      };
    case "direct_response": {
      const { status, body, binary } = filter;
      const bytes = Buffer.from(body, binary === true ? "base64" : "utf8");
      return { kind: { $case: "directResponse", value: { status, body: bytes, contentType: "" } } };
    }
    case "fault":
      return {
        kind: {
          $case: "fault",
          value: {
            delayMs: filter.delay?.ms ?? 0,
            delayPerMillion: filter.delay?.perMillion ?? 0,
            abortStatus: filter.abort?.status ?? 0,
            abortPerMillion: filter.abort?.perMillion ?? 0,
            abortGrpcStatus: filter.abort?.grpcStatus,
            byHeader: false,
          },
        },
      };
    case "cors":
      return {
        kind: {
          $case: "cors",
          value: {
            allowOrigins: filter.allowOrigins.map(textMessage),
            allowMethods: [...filter.allowMethods],
            allowHeaders: [...filter.allowHeaders],
            exposeHeaders: [...filter.exposeHeaders],
            maxAgeS: filter.maxAgeS,
            allowCredentials: filter.allowCredentials,
            forwardUnmatched: filter.forwardUnmatched === true,
          },
        },
      };
  }
}

function targetMessage(
  target: CompiledTarget,
  weight: number,
  filters: readonly CompiledFilter[],
): proto.HttpBackend {
  return {
    service: target.service ?? "",
    port: target.port,
    weight,
    subset: target.subset ?? "",
    filters: filters.map(filterMessage),
    invalid: target.invalid ?? "",
  };
}

function backendMessage({ target, weight, filters }: CompiledBackend): proto.HttpBackend {
  return targetMessage(target, weight, filters);
}

const balances = {
  least_request: proto.TrafficPolicy_Balance.LEAST_REQUEST,
  round_robin: proto.TrafficPolicy_Balance.ROUND_ROBIN,
  random: proto.TrafficPolicy_Balance.RANDOM,
  consistent_hash: proto.TrafficPolicy_Balance.CONSISTENT_HASH,
} as const;

function hashKeyMessage(key: HashKey): proto.HashKey {
  const kind: proto.HashKey["kind"] =
    key.type === "source_ip" ? { $case: "sourceIp", value: true } : { $case: key.type, value: key.name };
  const cookie = key.type === "cookie" ? key : undefined;
  return { kind, cookieTtlS: cookie?.ttlS, cookiePath: cookie?.path ?? "" };
}

function trafficMessage({ sourceObject, settings, subsets }: CompiledTrafficPolicy): proto.TrafficPolicy {
  const { ejection } = settings;
  return {
    sourceObject,
    maxConnections: settings.maxConnections ?? 0,
    maxPendingRequests: settings.maxPendingRequests ?? 0,
    maxRequests: settings.maxRequests ?? 0,
    maxRetries: settings.maxRetries ?? 0,
    maxRequestsPerConnection: settings.maxRequestsPerConnection ?? 0,
    connectTimeoutMs: settings.connectTimeoutMs ?? 0,
    idleTimeoutMs: settings.idleTimeoutMs ?? 0,
    balance: balances[settings.balance ?? "least_request"],
    hash: settings.hash && hashKeyMessage(settings.hash),
    ejection: ejection && { ...ejection },
    subsets: subsets.map(({ name, workloads }) => ({ name, workloadUids: [...workloads] })),
    requires: [],
  };
}

const actions = {
  ALLOW: proto.HttpAuthorization_Action.ALLOW,
  DENY: proto.HttpAuthorization_Action.DENY,
  AUDIT: proto.HttpAuthorization_Action.AUDIT,
  CUSTOM: proto.HttpAuthorization_Action.CUSTOM,
} as const;

function policyMessage(policy: CompiledRequestPolicy): proto.HttpAuthorization {
  return {
    namespace: policy.namespace,
    name: policy.policyName,
    sourceObject: policy.sourceObject,
    action: actions[policy.action],
    dryRun: policy.dryRun,
    targets: policy.targets.map(policyTarget),
    rules: policy.rules.map(authorizationRule),
    provider: policy.provider,
    external: policy.external && authorizerMessage(policy.external),
    requires: [],
  };
}

function cidrMessage({ address, length }: Cidr): Address {
  return { address: addressBytes(address), length };
}

function both<T, U>(matches: Matches<T>, form: (value: T) => U): [any: U[], none: U[]] {
  return [matches.any.map(form), matches.none.map(form)];
}

function authorizationRule(rule: AuthorizationRule): proto.HttpAuthorizationRule {
  return {
    sources: rule.from.map((source) => {
      const [principals, notPrincipals] = both(source.principals, stringMatchText);
      const [namespaces, notNamespaces] = both(source.namespaces, stringMatchText);
      const [requestPrincipals, notRequestPrincipals] = both(source.requestPrincipals, stringMatchText);
      const [serviceAccounts, notServiceAccounts] = both(
        source.serviceAccounts,
        ({ namespace, name }) => `${namespace}/${name}`,
      );
      const [ips, notIps] = both(source.ipBlocks, cidrMessage);
      const [remoteIps, notRemoteIps] = both(source.remoteIpBlocks, cidrMessage);
      return {
        principals,
        notPrincipals,
        namespaces,
        notNamespaces,
        serviceAccounts,
        notServiceAccounts,
        requestPrincipals,
        notRequestPrincipals,
        ips,
        notIps,
        remoteIps,
        notRemoteIps,
      };
    }),
    operations: rule.to.map((operation) => {
      const [hosts, notHosts] = both(operation.hosts, stringMatchText);
      const [methods, notMethods] = both(operation.methods, stringMatchText);
      const [paths, notPaths] = both(operation.paths, stringMatchText);
      const { any: ports, none: notPorts } = operation.ports;
      return {
        hosts,
        notHosts,
        ports: [...ports],
        notPorts: [...notPorts],
        methods,
        notMethods,
        paths,
        notPaths,
      };
    }),
    conditions: rule.when.map(({ key, values }) => ({
      key,
      values: [...values.any],
      notValues: [...values.none],
    })),
  };
}
