// Follow an inbox over `/ws`: one line of JSON for each change.
//   npm install && LIVE_URL=ws://127.0.0.1:8000/ws TOKEN="$(redirect-worker token)" node follow.mjs
import WebSocket from "ws";

const { LIVE_URL, TOKEN } = process.env;
const FINAL = [1008, 1009, 4400, 4401, 4403]; // close codes whose reason is still there the next time
const BETWEEN_PAGES = 200; // ms: the gateway takes five messages a second
const SILENT = 45_000; // ms: it sends a ping every 20 s

// What is known, over all connections.
const known = new Map();
let complete = false;
let failures = 0;

function accept(conversation) {
  const { conversation_id, version, owner_id } = conversation;
  const last = known.get(conversation_id) ?? { version: 0, owner_id: null };
  // Only an owner that becomes known comes with the same version.
  const ownerBecomesKnown = version === last.version && last.owner_id === null && owner_id !== null;
  if (version <= last.version && !ownerBecomesKnown) return false;
  known.set(conversation_id, { version, owner_id });
  console.log(JSON.stringify(conversation));
  return true;
}

// Returns what asks for the next page, until a page has nothing new.
function take({ type, ...rest }) {
  if (type === "conversation_updated") accept(rest);
  // `paused` and `live` change nothing here, and other types are to be ignored.
  if (type !== "snapshot" && type !== "page") return undefined;
  const wanted = rest.conversations.map(accept).some(Boolean) || !complete;
  complete ||= rest.next === undefined;
  return wanted ? rest.next : undefined;
}

function connect() {
  const socket = new WebSocket(LIVE_URL, ["redirect.v1", `bearer.${TOKEN}`], { handshakeTimeout: 10_000 });
  let silence;
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(() => socket.terminate(), SILENT);
  };
  const ask = (after) => socket.readyState === WebSocket.OPEN && socket.send(JSON.stringify({ type: "page", after }));

  socket.on("open", heard);
  socket.on("ping", heard);
  socket.on("message", (text) => {
    failures = 0;
    heard();
    const next = take(JSON.parse(text));
    if (next) setTimeout(ask, BETWEEN_PAGES, next);
  });
  socket.on("error", ({ message }) => {
    // "close" follows. Of what is answered instead of a socket, only this is final.
    if (message.endsWith("403")) end(`${message}: the address should have no query but owner_id`);
  });
  socket.on("close", (code, reason) => {
    clearTimeout(silence);
    if (FINAL.includes(code)) end(`closed with ${code}: ${reason}`);
    setTimeout(connect, 1000 * Math.min(30, 2 ** failures++) * (0.5 + Math.random() / 2));
  });
}

function end(why) {
  console.error(why);
  process.exit(1);
}

connect();
