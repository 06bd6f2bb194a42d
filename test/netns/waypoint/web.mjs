// What stands in pods of the tests about tokens and authorizers. usage: node web.mjs ask|echo|authorizer-http|authorizer-grpc ARGS
import { createServer, request } from "node:http";
import { Buffer } from "node:buffer";
import grpc from "@grpc/grpc-js";
import { BinaryReader, BinaryWriter } from "@bufbuild/protobuf/wire";

/** @param {import("node:http").IncomingMessage} message @returns {Promise<string>} */
async function textOf(message) {
  let text = "";
  for await (const chunk of message) text += String(chunk);
  return text;
}

/** One request; prints its answer as JSON. @param {string[]} args */
async function ask([url = "", method = "GET", headers = "{}", body = ""]) {
  const answered = new Promise((resolve, reject) => {
    const sent = request(url, { method, headers: JSON.parse(headers), agent: false }, resolve);
    sent.setTimeout(10_000, () => sent.destroy(new Error("no answer")));
    sent.on("error", reject);
    sent.end(body);
  });
  const response = await answered;
  const text = await textOf(response);
  process.stdout.write(
    JSON.stringify({ status: response.statusCode, headers: response.headers, body: text }),
  );
}

/** Answers with what it was asked. @param {string[]} args */
function echo([port = "8080"]) {
  createServer((message, response) => {
    void textOf(message).then((body) => {
      const { method, url, headers } = message;
      response.writeHead(200, { "content-type": "application/json" });
      response.end(JSON.stringify({ method, url, headers, body }));
    });
  }).listen(Number(port), "0.0.0.0");
}

/** Lets in who has `x-let: in`; tells the endpoint what it has seen. @param {string[]} args */
function authorizerHttp([port = "8000"]) {
  createServer((message, response) => {
    void textOf(message).then((body) => {
      const seen = `${message.method ?? ""} ${message.url ?? ""} ${body}`;
      const { "x-let": wish, "x-secret": secret, "x-mesh": mesh } = message.headers;
      if (wish === "break") message.socket.destroy();
      else if (wish === "in")
        response
          .writeHead(200, {
            "x-checked": `${seen} ${String(secret)} ${String(mesh)}`,
            "x-for-client": "hello",
            "x-other": "kept",
          })
          .end();
      else
        response.writeHead(401, { "x-why": "not let in", "content-type": "text/plain" }).end(`no: ${seen}`);
    });
  }).listen(Number(port), "0.0.0.0");
}

/** Reads a message's fields: bytes by number. @param {Uint8Array} bytes @returns {Map<number, Uint8Array[]>} */
function fieldsOf(bytes) {
  const reader = new BinaryReader(bytes);
  const fields = new Map();
  while (reader.pos < reader.len) {
    const [number, type] = reader.tag();
    if (type !== 2) reader.skip(type, number);
    else fields.set(number, [...(fields.get(number) ?? []), reader.bytes()]);
  }
  return fields;
}

const none = new Uint8Array();
const text = (/** @type {Uint8Array | undefined} */ bytes) => Buffer.from(bytes ?? none).toString();

/** @param {[number, Uint8Array | string][]} fields */
function message(fields) {
  const writer = new BinaryWriter();
  for (const [number, value] of fields)
    if (typeof value === "string") writer.tag(number, 2).string(value);
    else writer.tag(number, 2).bytes(value);
  return writer.finish();
}

const option = (/** @type {string} */ key, /** @type {string} */ value) =>
  message([
    [
      1,
      message([
        [1, key],
        [2, value],
      ]),
    ],
  ]);
const code = (/** @type {number} */ value) => new BinaryWriter().tag(1, 0).int32(value).finish();

/** The same over gRPC: `envoy.service.auth.v3.Authorization`. @param {string[]} args */
function authorizerGrpc([port = "9000"]) {
  const server = new grpc.Server();
  const pass = (/** @type {Buffer} */ bytes) => bytes;
  const definition = {
    Check: {
      path: "/envoy.service.auth.v3.Authorization/Check",
      requestStream: false,
      responseStream: false,
      requestSerialize: pass,
      requestDeserialize: pass,
      responseSerialize: pass,
      responseDeserialize: pass,
    },
  };
  server.addService(definition, {
    Check: (/** @type {{ request: Buffer }} */ { request: asked }, /** @type {Function} */ answer) => {
      const attributes = fieldsOf(fieldsOf(asked).get(1)?.[0] ?? none);
      const source = fieldsOf(attributes.get(1)?.[0] ?? none);
      const http = fieldsOf(fieldsOf(attributes.get(4)?.[0] ?? none).get(2)?.[0] ?? none);
      const headers = new Map(
        (http.get(3) ?? []).map((entry) => {
          const fields = fieldsOf(entry);
          return [text(fields.get(1)?.[0]), text(fields.get(2)?.[0])];
        }),
      );
      const wish = headers.get("x-let");
      if (wish === "break") return answer({ code: grpc.status.UNAVAILABLE, details: "broken" });
      const seen = [
        ...[text(http.get(2)?.[0]), text(http.get(4)?.[0]), text(http.get(12)?.[0])],
        ...[text(source.get(4)?.[0]), String(headers.get(":authority"))],
      ].join(" ");
      if (wish === "in") {
        const ok = message([
          [2, option("x-checked", seen)],
          [5, "x-secret"],
          [6, option("x-for-client", "hello")],
        ]);
        return answer(
          null,
          Buffer.from(
            message([
              [1, none],
              [3, ok],
            ]),
          ),
        );
      }
      const denied = message([
        [1, code(401)],
        [2, option("x-why", "not let in")],
        [3, `no: ${seen}`],
      ]);
      return answer(
        null,
        Buffer.from(
          message([
            [1, code(7)],
            [2, denied],
          ]),
        ),
      );
    },
  });
  server.bindAsync(`0.0.0.0:${port}`, grpc.ServerCredentials.createInsecure(), () => undefined);
}

const [, , what, ...args] = process.argv;
if (what === "ask") await ask(args);
else if (what === "echo") echo(args);
else if (what === "authorizer-http") authorizerHttp(args);
else if (what === "authorizer-grpc") authorizerGrpc(args);
