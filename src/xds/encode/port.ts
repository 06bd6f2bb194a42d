import type { CompiledPort } from "../../compile/compiled.js";
import type { AppProtocol as DomainProtocol } from "../../domain/objects.js";
import { AppProtocol, type Port } from "../../gen/istio/workload/workload.js";

const protocols: Readonly<Record<DomainProtocol, AppProtocol>> = {
  unknown: AppProtocol.UNKNOWN,
  http: AppProtocol.HTTP11,
  http2: AppProtocol.HTTP2,
  grpc: AppProtocol.GRPC,
  tcp: AppProtocol.TCP,
  tls: AppProtocol.TLS,
};

export function encodePort(port: CompiledPort): Port {
  return {
    servicePort: port.servicePort,
    targetPort: port.targetPort,
    appProtocol: protocols[port.appProtocol],
  };
}
