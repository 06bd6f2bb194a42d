/** An Envoy that does what the waypoint does: routes, the same authorization, mutual TLS on both sides. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdir, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";

export interface EnvoyJob {
  readonly binary: string;
  /** Of this instance alone. */
  readonly directory: string;
  /** With `chain.pem`, `key.pem` and `root.pem`. */
  readonly certificates: string;
  readonly routes: number;
  readonly policy: boolean;
  /** HTTP/1.1 and HTTP/2 towards backends, with TLS and plain. */
  readonly ports: {
    readonly tls: readonly [number, number];
    readonly plain: readonly [number, number];
  };
  /** IP:PORT of the backend. */
  readonly backend: { readonly tls: string; readonly plain: string };
}

const type = "type.googleapis.com/envoy";

const address = (at: string): object => {
  const [ip = "", port = ""] = at.split(":");
  return { socket_address: { address: ip, port_value: Number(port) } };
};

function tls(directory: string, side: "Upstream" | "Downstream"): object {
  const file = (name: string): object => ({ filename: join(directory, name) });
  return {
    name: "tls",
    typed_config: {
      "@type": `${type}.extensions.transport_sockets.tls.v3.${side}TlsContext`,
      common_tls_context: {
        tls_params: { tls_minimum_protocol_version: "TLSv1_3", tls_maximum_protocol_version: "TLSv1_3" },
        tls_certificates: [{ certificate_chain: file("chain.pem"), private_key: file("key.pem") }],
        validation_context: { trusted_ca: file("root.pem") },
      },
      ...(side === "Downstream" ? { require_client_certificate: true } : {}),
    },
  };
}

/** Rule I takes what is below `/rI`, and says which version it is. */
function routeTable(name: string, cluster: string, routes: number, version: string): object {
  return {
    "@type": `${type}.config.route.v3.RouteConfiguration`,
    name,
    virtual_hosts: [
      {
        name: "all",
        domains: ["*"],
        routes: Array.from({ length: routes }, (_, rule) => ({
          match: { path_separated_prefix: `/r${rule}` },
          route: { cluster },
          response_headers_to_add: [{ header: { key: "x-version", value: version } }],
        })),
      },
    ],
  };
}

/** As `policy` in native/crates/proxy/examples/l7_rig: who, how and where. Plain callers have no name. */
function authorization(secure: boolean): object {
  const method = (exact: string): object => ({ header: { name: ":method", string_match: { exact } } });
  const caller = {
    authenticated: { principal_name: { exact: "spiffe://cluster.local/ns/default/sa/caller" } },
  };
  return {
    name: "rbac",
    typed_config: {
      "@type": `${type}.extensions.filters.http.rbac.v3.RBAC`,
      rules: {
        action: "ALLOW",
        policies: {
          bench: {
            principals: [secure ? caller : { any: true }],
            permissions: [
              {
                and_rules: {
                  rules: [
                    { or_rules: { rules: [method("GET"), method("POST")] } },
                    { url_path: { path: { prefix: "/r" } } },
                  ],
                },
              },
            ],
          },
        },
      },
    },
  };
}

/** One Envoy process with two threads. */
export class Envoy {
  #child: ChildProcess | undefined;

  constructor(private readonly job: EnvoyJob) {}

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  #listeners(): readonly { name: string; port: number; secure: boolean; http2: boolean }[] {
    const { tls: secure, plain } = this.job.ports;
    return [
      { name: "tls_http1", port: secure[0], secure: true, http2: false },
      { name: "tls_http2", port: secure[1], secure: true, http2: true },
      { name: "plain_http1", port: plain[0], secure: false, http2: false },
      { name: "plain_http2", port: plain[1], secure: false, http2: true },
    ];
  }

  /** Replaces the route tables as a file watcher expects it: by a move. */
  async route(version: string): Promise<void> {
    for (const { name } of this.#listeners()) {
      const resources = [routeTable(name, name, this.job.routes, version)];
      const file = join(this.job.directory, "routes", `${name}.json`);
      await writeFile(`${file}.new`, JSON.stringify({ version_info: version, resources }));
      await rename(`${file}.new`, file);
    }
  }

  #bootstrap(): object {
    const { directory, certificates, policy, backend } = this.job;
    return {
      node: { id: "bench", cluster: "bench" },
      static_resources: {
        listeners: this.#listeners().map(({ name, port, secure }) => ({
          name,
          address: address(`127.0.0.1:${port}`),
          filter_chains: [
            {
              ...(secure ? { transport_socket: tls(certificates, "Downstream") } : {}),
              filters: [
                {
                  name: "http",
                  typed_config: {
                    "@type": `${type}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`,
                    stat_prefix: name,
                    codec_type: "AUTO",
                    normalize_path: true,
                    merge_slashes: true,
                    rds: {
                      route_config_name: name,
                      config_source: {
                        path_config_source: {
                          path: join(directory, "routes", `${name}.json`),
                          watched_directory: { path: join(directory, "routes") },
                        },
                      },
                    },
                    http_filters: [
                      ...(policy ? [authorization(secure)] : []),
                      {
                        name: "router",
                        typed_config: { "@type": `${type}.extensions.filters.http.router.v3.Router` },
                      },
                    ],
                  },
                },
              ],
            },
          ],
        })),
        clusters: this.#listeners().map(({ name, secure, http2 }) => ({
          name,
          type: "STATIC",
          connect_timeout: "5s",
          circuit_breakers: {
            thresholds: [{ max_connections: 100_000, max_pending_requests: 100_000, max_requests: 100_000 }],
          },
          load_assignment: {
            cluster_name: name,
            endpoints: [
              {
                lb_endpoints: [{ endpoint: { address: address(secure ? backend.tls : backend.plain) } }],
              },
            ],
          },
          typed_extension_protocol_options: {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
              "@type": `${type}.extensions.upstreams.http.v3.HttpProtocolOptions`,
              explicit_http_config: http2 ? { http2_protocol_options: {} } : { http_protocol_options: {} },
            },
          },
          ...(secure ? { transport_socket: tls(certificates, "Upstream") } : {}),
        })),
      },
    };
  }

  async start(): Promise<void> {
    const { directory, binary } = this.job;
    await mkdir(join(directory, "routes"), { recursive: true });
    await this.route("v1");
    const file = join(directory, "envoy.json");
    await writeFile(file, JSON.stringify(this.#bootstrap()));
    const args = ["-c", file, "--concurrency", "2", "--log-level", "warn", "--disable-hot-restart"];
    // A session of its own, as the waypoint's: the kernel shares CPU by session.
    this.#child = spawn(binary, args, {
      stdio: ["ignore", "ignore", "inherit"],
      detached: true,
      cwd: directory,
    });
  }

  stop(): void {
    this.#child?.kill("SIGKILL");
  }
}
