// Runs every call of the SDK's data, node and debug parts against two nodes,
// and prints the results as JSON: sdk.mjs URL OTHER_URL OTHER_PEER OTHER_ADDRESS…
//
// The SDK uploads with XMLHttpRequest, which browsers have and Node.js does not; the
// few lines below replace it.

import http from "node:http";
import { createHash } from "node:crypto";
import { Archivist } from "@durability-labs/archivist-sdk-js";
import { Archivist as AsyncArchivist } from "@durability-labs/archivist-sdk-js/async";

globalThis.XMLHttpRequest = class {
  upload = {};
  #headers = {};
  open(method, url) {
    this.method = method;
    this.url = url;
  }
  setRequestHeader(name, value) {
    this.#headers[name] = value;
  }
  async send(body) {
    const bytes = Buffer.from(body?.arrayBuffer ? await body.arrayBuffer() : (body ?? ""));
    const request = http.request(this.url, { method: this.method, headers: this.#headers });
    request.on("response", (response) => {
      const pieces = [];
      response.on("data", (piece) => pieces.push(piece));
      response.on("end", () => {
        this.status = response.statusCode;
        this.responseText = this.response = Buffer.concat(pieces).toString();
        this.onload?.();
      });
    });
    request.on("error", () => this.onerror?.());
    this.upload.onprogress?.({ lengthComputable: true, loaded: bytes.length, total: bytes.length });
    request.end(bytes);
  }
  abort() {}
};

const [url, otherUrl, otherPeer, ...otherAddresses] = process.argv.slice(2);

function data(what, result) {
  if (result.error) {
    throw new Error(`${what}: ${result.data.code} ${result.data.message}`);
  }
  return result.data;
}

const sha256 = (bytes) => createHash("sha256").update(Buffer.from(bytes)).digest("hex");

// The sync entry has getters, the async one methods.
const part = (archivist, name) =>
  typeof archivist[name] === "function" ? archivist[name]() : archivist[name];

async function story(archivist, other) {
  const out = {};
  const content = new Uint8Array(3_000_000).map((_, at) => (at * 2654435761) >>> 13);
  out.sha256 = sha256(content);
  const metadata = { filename: "from the sdk.bin", mimetype: "application/octet-stream" };
  const nodeData = await part(archivist, "data");
  const otherData = await part(other, "data");

  let progress = 0;
  const upload = nodeData.upload(new Blob([content]), (loaded) => (progress = loaded), metadata);
  out.cid = data("upload", await upload.result);
  out.progress = progress;

  const cids = data("cids", await nodeData.cids());
  out.item = cids.content.find((item) => item.cid === out.cid);
  out.space = data("space", await nodeData.space());
  const local = data("localDownload", await nodeData.localDownload(out.cid));
  out.local = sha256(await local.arrayBuffer());

  const nodeNode = await part(archivist, "node");
  out.spr = data("spr", await nodeNode.spr());
  out.peerId = await data("peerId", await nodeNode.peerId()).json();
  const connected = data("connect", await nodeNode.connect(otherPeer, otherAddresses));
  out.connected = await connected.text();

  // This node fetches the upload of the other node from the network.
  const there = otherData.upload(new Blob(["from the other"]), undefined, metadata);
  const remote = data("upload", await there.result);
  out.remote = remote;
  out.manifest = data("fetchManifest", await nodeData.fetchManifest(remote));
  out.fetched = data("networkDownload", await nodeData.networkDownload(remote));
  const stream = data("networkDownloadStream", await nodeData.networkDownloadStream(remote));
  out.stream = await stream.text();

  const debug = await part(archivist, "debug");
  out.info = data("info", await debug.info());
  out.level = data("setLogLevel", await debug.setLogLevel("INFO"));

  // Error texts of the node reach the caller unchanged.
  const absent = "bafkr4igxjga67jykbseaxdmmdgc5a5o3zp3htom2l6mrjznk7fvyggu6eq";
  const missing = await nodeData.localDownload(absent);
  out.missing = { error: missing.error, code: missing.data.code, message: missing.data.message };
  return out;
}

const sync = await story(new Archivist(url), new Archivist(otherUrl));
const async_ = await story(new AsyncArchivist(url), new AsyncArchivist(otherUrl));
console.log(JSON.stringify({ sync, async: async_ }));
