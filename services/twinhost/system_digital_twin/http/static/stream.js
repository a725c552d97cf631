// The state as it comes from mainpc: a stream of events, and where that breaks, asking again until it is back.

const SILENCE_MS = 8_000; // mainpc tells its state every second or so
const FIRST_RETRY_MS = 1_000;
const LONGEST_RETRY_MS = 5_000;
const ANSWER_MS = 3_000;
const HIDDEN_MS = 60_000; // a page that nobody looks at gives its place among the listeners back

/** Call `onState` with every state, and `onLost` when mainpc no longer answers. */
export class StateStream {
  #onState;
  #onLost;
  #source = null;
  #watchdog = 0;
  #retry = 0;
  #away = 0;
  #failures = 0;

  constructor(onState, onLost) {
    this.#onState = onState;
    this.#onLost = onLost;
    document.addEventListener("visibilitychange", () => this.#lookedAt(document.visibilityState === "visible"));
    window.addEventListener("online", () => this.#source === null && this.#again());
  }

  open() {
    this.#close();
    const source = new EventSource("/api/stream");
    this.#source = source;
    source.addEventListener("state", (message) => {
      if (this.#take(message.data)) this.#failures = 0;
    });
    source.addEventListener("error", () => this.#broken());
    this.#watch();
  }

  #close() {
    clearTimeout(this.#watchdog);
    clearTimeout(this.#retry);
    this.#source?.close();
    this.#source = null;
  }

  #watch() {
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => this.#broken(), SILENCE_MS);
  }

  #take(text) {
    this.#watch();
    let state;
    try {
      state = JSON.parse(text);
    } catch {
      return false;
    }
    this.#onState(state);
    return true;
  }

  #broken() {
    this.#close();
    const wait = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** this.#failures++);
    this.#retry = setTimeout(() => this.#again(), this.#failures === 1 ? 0 : wait);
  }

  /** Ask once without the stream: it may be full while mainpc itself is well. */
  async #again() {
    this.#close();
    try {
      const answer = await fetch("/api/state", { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS) });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      this.#onState(await answer.json());
    } catch {
      this.#onLost();
      this.#broken();
      return;
    }
    if (this.#source === null) this.open();
  }

  #lookedAt(visible) {
    clearTimeout(this.#away);
    if (!visible) this.#away = setTimeout(() => this.#close(), HIDDEN_MS);
    else if (this.#source === null) this.#again();
  }
}
