/** Who may be believed and who is asked, as `meltemi.v1` messages. */
import type {
  CompiledAuthorizer,
  CompiledRequestAuthentication,
  PolicyTarget,
} from "../../compile/waypoint/config.js";
import { keySetName, type JwtRule, type TokenPlace } from "../../domain/request-authentication.js";
import type * as proto from "../../gen/meltemi/v1/waypoint.js";

export function policyTarget(target: PolicyTarget): proto.PolicyTarget {
  return {
    kind:
      target.type === "waypoint"
        ? { $case: "waypoint", value: true }
        : { $case: "service", value: target.service },
  };
}

export function authenticationMessage(policy: CompiledRequestAuthentication): proto.RequestAuthentication {
  return {
    namespace: policy.namespace,
    name: policy.policyName,
    sourceObject: policy.sourceObject,
    targets: policy.targets.map(policyTarget),
    rules: policy.rules.map(ruleMessage),
    requires: [],
  };
}

function ruleMessage(rule: JwtRule): proto.JwtRule {
  return {
    issuer: rule.issuer,
    audiences: [...rule.audiences],
    places: rule.places.map(placeMessage),
    keys:
      rule.keys.type === "inline"
        ? { $case: "jwks", value: Buffer.from(rule.keys.jwks) }
        : { $case: "keySet", value: keySetName(rule.keys) ?? "" },
    outputPayloadToHeader: rule.outputPayloadToHeader ?? "",
    forwardOriginalToken: rule.forwardOriginalToken,
    outputs: rule.outputClaimToHeaders.map(({ header, claim }) => ({ header, claim })),
  };
}

function placeMessage(place: TokenPlace): proto.TokenPlace {
  if (place.type === "header")
    return { kind: { $case: "header", value: { name: place.name, prefix: place.prefix } } };
  return { kind: { $case: place.type, value: place.name } };
}

export function authorizerMessage({ service, provider }: CompiledAuthorizer): proto.ExternalAuthorizer {
  return {
    service,
    port: provider.port,
    timeoutMs: provider.timeoutMs,
    failOpen: provider.failOpen,
    statusOnError: provider.statusOnError,
    protocol:
      provider.type === "ext_authz_grpc"
        ? { $case: "grpc", value: {} }
        : {
            $case: "http",
            value: {
              pathPrefix: provider.pathPrefix,
              requestHeaders: [...provider.requestHeaders],
              furtherHeaders: provider.furtherHeaders.map(({ name, value }) => ({ name, value })),
              toUpstream: [...provider.headersToUpstreamOnAllow],
              toDownstreamOnDeny: [...provider.headersToDownstreamOnDeny],
              toDownstreamOnAllow: [...provider.headersToDownstreamOnAllow],
            },
          },
    body: provider.body && {
      maxBytes: provider.body.maxBytes,
      allowPartial: provider.body.allowPartial,
      asBytes: provider.body.asBytes,
    },
  };
}
