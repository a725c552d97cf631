// The page: receives every state from the stream and has it drawn.

import { setLost, drawLevel, titleOf } from "./attention.js";
import { now, setServerTime, tick } from "./clock.js";
import { byId, setText } from "./dom.js";
import { route, show } from "./router.js";
import { StateStream } from "./stream.js";
import { duration, isNumber } from "./text.js";

let newest = null;
let receivedAt = null; // when the newest state was received, by mainpc's clock

function onState(state) {
  newest = state;
  setServerTime(state.time);
  receivedAt = now();
  setStream("live");
  setLost(null);
  draw();
}

function onLost() {
  if (document.documentElement.dataset.stream === "stale") return;
  setStream("stale");
  setLost({ at: receivedAt });
  draw();
}

function draw() {
  drawLevel(newest);
  if (newest === null) return;
  setText(byId("uptime"), isNumber(newest.uptime_s) ? `mainpc’s agent has been up for ${duration(newest.uptime_s)}.` : "");
  show(newest);
}

function setStream(name) {
  document.documentElement.dataset.stream = name;
  setText(byId("live-word"), { live: "Live", stale: "Disconnected", connecting: "Connecting" }[name]);
}

route((title) => (document.title = titleOf(newest, title)));
setInterval(tick, 1000);
new StateStream(onState, onLost).open();
