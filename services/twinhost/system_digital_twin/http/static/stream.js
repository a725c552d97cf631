// Receives mainpc's state: server-sent events of what has changed, with polling and reconnects after an error.

import { changed } from "./changes.js";

const SILENCE_MS = 8_000; // mainpc sends its state about every second
const FIRST_RETRY_MS = 1_000;
const LONGEST_RETRY_MS = 5_000;
const ANSWER_MS = 3_000;
const HIDDEN_MS = 60_000; // a hidden page disconnects, since the number of listeners is limited, and says so

/** Call `onState` with every state, and `onLost` when mainpc does not answer. */
export class StateStream {
  #onState;
  #onLost;
  #source = null;
  #state = null;
  #timer = 0; // of what comes next: a reconnect after silence, or a poll
  #hiddenTimer = 0;
  #failures = 0;

  constructor(onState, onLost) {
    this.#onState = onState;
    this.#onLost = onLost;
    document.addEventListener("visibilitychange", () => this.#onVisibility(document.visibilityState === "visible"));
    window.addEventListener("online", () => this.#source === null && this.#poll());
  }

  open() {
    this.#close();
    const source = new EventSource("/api/stream?changes");
    this.#source = source;
    source.addEventListener("state", ({ data }) => this.#receive(() => JSON.parse(data)));
    source.addEventListener("change", ({ data }) => this.#receive(() => changed(this.#state, JSON.parse(data))));
    source.addEventListener("error", () => this.#reconnect());
    this.#watch();
  }

  #close() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
  }

  #watch() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#reconnect(), SILENCE_MS);
  }

  #receive(stateOf) {
    this.#watch();
    try {
      this.#state = stateOf();
    } catch {
      this.#reconnect(); // which begins with the whole state
      return;
    }
    this.#failures = 0;
    this.#onState(this.#state);
  }

  #reconnect() {
    this.#close();
    const wait = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** this.#failures++);
    this.#timer = setTimeout(() => this.#poll(), this.#failures === 1 ? 0 : wait);
  }

  /** Poll once without the stream, which may be full while mainpc is healthy. */
  async #poll() {
    this.#close();
    try {
      const answer = await fetch("/api/state", { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS) });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      this.#onState(await answer.json());
    } catch {
      this.#onLost();
      this.#reconnect();
      return;
    }
    if (this.#source === null) this.open();
  }

  #onVisibility(visible) {
    clearTimeout(this.#hiddenTimer);
    const leave = () => {
      this.#close();
      this.#onLost(); // until it is seen again, nobody may read from it that all is well
    };
    if (!visible) this.#hiddenTimer = setTimeout(leave, HIDDEN_MS);
    else if (this.#source === null) this.#poll();
  }
}
