// A client of both agents in JavaScript, with zeromq.js 6: it registers, stores a memory, and searches.
//
//   node memory.mjs KEYS MAINPC PC2 TEXT QUERY
//
// KEYS is the folder of this program's key, MAINPC and PC2 are the agents' endpoints, such as tcp://127.0.0.1:7120.
// Each reply is printed as a line of JSON. Exit status 1: an error reply, or none. The wire: docs/reference/wire-protocol.md.

import { randomUUID } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import zmq from "zeromq";

const TRY_MS = 1000;
const TRIES = 5;

/** The `name = "value"` pairs of a key file; its sections have no name in common. */
function readKey(path) {
  const pairs = readFileSync(path, "ascii").matchAll(/^\s+([\w-]+)\s*=\s*"([^"]*)"\s*$/gm);
  return Object.fromEntries([...pairs].map(([, name, value]) => [name, value]));
}

/** The only NAME.key_secret of a folder; a NAME.next.key_secret belongs to a rotation. */
function ownKey(folder) {
  const file = readdirSync(folder).find((name) => /(?<!\.next)\.key_secret$/.test(name));
  if (file === undefined) {
    throw new Error(`${folder} holds no secret key`);
  }
  return readKey(join(folder, file));
}

/** A connection that only the holder of FOLDER/STEM.key can serve. */
function connectTo(endpoint, own, folder, stem) {
  const agent = new zmq.Dealer({
    curveServerKey: readKey(join(folder, `${stem}.key`))["public-key"],
    curvePublicKey: own["public-key"],
    curveSecretKey: own["secret-key"],
    heartbeatInterval: 5000,
    heartbeatTimeout: 10000,
    heartbeatTimeToLive: 20000,
    tcpMaxRetransmitTimeout: 10000,
    receiveTimeout: TRY_MS,
    linger: 0,
  });
  agent.connect(endpoint);
  return agent;
}

/** The next reply, or undefined where none comes in time. */
async function receive(agent) {
  try {
    const [frame] = await agent.receive();
    return JSON.parse(frame.toString());
  } catch (error) {
    if (error.code === "EAGAIN") {
      return undefined;
    }
    throw error;
  }
}

/** Send a request until its reply comes, always the same bytes: the agent executes it once. */
async function call(agent, action, fields) {
  const id = randomUUID();
  const bytes = JSON.stringify({ action, request_id: id, ...fields });
  for (let attempt = 0; attempt < TRIES; attempt++) {
    await agent.send(bytes);
    for (let reply; (reply = await receive(agent)) !== undefined; ) {
      if (reply.request_id !== id) {
        continue; // of an earlier attempt
      }
      if (reply.status === "error") {
        throw new Error(`${reply.code}: ${reply.error}`);
      }
      return reply;
    }
  }
  throw new Error(`${action}: no reply; is the address right, is the agent running, is the key authorised?`);
}

async function main([folder, mainpcEndpoint, pc2Endpoint, text, query]) {
  const own = ownKey(folder);
  const mainpc = connectTo(mainpcEndpoint, own, folder, "server");
  const pc2 = connectTo(pc2Endpoint, own, folder, "client");
  const show = (reply) => console.log(JSON.stringify(reply));
  show(await call(mainpc, "register_agent", { agent_name: own.name, status: "HEALTHY" }));
  show(await call(pc2, "store_memory", { content: text }));
  show(await call(pc2, "search_memory", { query }));
}

const words = process.argv.slice(2);
if (words.length !== 5) {
  console.error("usage: node memory.mjs KEYS MAINPC PC2 TEXT QUERY");
  process.exit(2);
}
try {
  await main(words);
} catch (error) {
  console.error(`memory: ${error.message}`);
  process.exit(1);
}
