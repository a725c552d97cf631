// Asks mainpc for what the state does not have, and keeps the newest answer of each path.

import { redraw } from "./router.js";

const AGAIN_MS = 30_000;
const RETRY_MS = 3_000; // after it was not answered
const ANSWER_MS = 5_000;
const ROUNDS = 8; // of a search: mainpc looks through a limited part of what is stored in each
const answers = new Map(); // by path

/**
 * Return the newest answer to a question: `{ answer, fault }`. It is asked again when the question or its `sign` changes,
 * and now and then; the page is drawn again with each answer. A question for `rows` goes on until it has `limit` of them.
 */
export function answerTo(path, query, { sign = "", rows = null } = {}) {
  const search = new URLSearchParams(Object.entries(query).filter(([, value]) => value)).toString();
  const before = answers.get(path);
  if (before?.search === search && (before.isOpen || (before.sign === sign && Date.now() - before.at < (before.fault ? RETRY_MS : AGAIN_MS)))) return before;
  const same = before?.search === search ? before : null;
  const asked = { search, sign, at: Date.now(), isOpen: true, answer: same?.answer ?? null, fault: same?.fault ?? null };
  answers.set(path, asked);
  ask(asked, path, query, rows);
  return asked;
}

async function ask(asked, path, query, rows) {
  try {
    let answer = await get(path, asked.search);
    for (let round = 1; rows !== null && round < ROUNDS && answer.next_before && answer[rows].length < query.limit; round++) {
      const next = new URLSearchParams(asked.search);
      next.set("before", answer.next_before);
      next.set("limit", query.limit - answer[rows].length);
      const more = await get(path, next);
      answer = { ...more, [rows]: [...answer[rows], ...more[rows]] };
    }
    Object.assign(asked, { answer, fault: null });
  } catch (error) {
    asked.fault = error instanceof Refused ? error.message : "It could not be loaded; the page asks again.";
  }
  asked.isOpen = false;
  if (answers.get(path) === asked) redraw();
}

class Refused extends Error {}

async function get(path, search) {
  const answer = await fetch(`${path}?${search}`, { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS) });
  const document = await answer.json();
  if (!answer.ok) throw new Refused(String(document.error));
  return document;
}
