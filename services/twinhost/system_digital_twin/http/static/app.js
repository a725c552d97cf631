// The page: receives every state from the stream and draws it.

import { now, setServerTime, tick } from "./clock.js";
import { byId, setText } from "./dom.js";
import { drawMachines } from "./machines.js";
import { drawAgents, drawBudgets, drawErrors, drawEvents, drawLeases, drawRefused, drawSessions } from "./sections.js";
import { StateStream } from "./stream.js";
import { drawBanners, drawLost, drawSummary } from "./summary.js";
import { duration } from "./text.js";

const DRAWERS = [drawBanners, drawSummary, drawMachines, drawAgents, drawSessions, drawBudgets, drawRefused, drawLeases, drawEvents, drawErrors];

let receivedAt = null; // when the newest state was received, by this browser's clock

function onState(state) {
  receivedAt = Date.now();
  setServerTime(state.time);
  setStream("live");
  drawLost(null);
  for (const drawer of DRAWERS) {
    try {
      drawer(state);
    } catch (error) {
      console.error(drawer.name, error); // a section that fails must not stop the others
    }
  }
}

function onLost() {
  setStream("stale");
  showAge();
}

function setStream(name) {
  document.documentElement.dataset.stream = name;
  setText(byId("live-word"), { live: "Live", stale: "Disconnected", connecting: "Connecting" }[name]);
  setText(byId("live-since"), "");
}

function showAge() {
  if (document.documentElement.dataset.stream !== "stale") return;
  const age = receivedAt === null ? null : (Date.now() - receivedAt) / 1000;
  if (age !== null) setText(byId("live-since"), `for ${duration(age)}`);
  drawLost(age ?? 0, receivedAt !== null);
}

setInterval(() => {
  tick();
  showAge();
}, 1000);

new StateStream(onState, onLost).open();
