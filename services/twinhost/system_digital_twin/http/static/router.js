// Which page is shown: that of the address, "#/VIEW/NAME?parameter=value", so that it can be linked and reloaded.
//
// A view is a module views/VIEW.js with `title(parameters)` and `draw(place, state, parameters)`, which is called with every
// state: the place is the view's own, empty at first, and is brought up to date. `parameters.name` is NAME.

import { byId, el, setAttribute } from "./dom.js";

const VIEWS = ["overview", "host", "agents", "agent", "keys", "key", "errors", "events", "refused", "leases", "budgets", "audit", "memory"];
const OF_NAVIGATION = { host: "overview", agent: "agents", key: "keys" }; // pages below another

let shown = null; // the page: its view, parameters, place, and module, which is null until it is loaded
let state = null;
let onShown = () => {};

/** Return the address of a page, and of one thing on it. */
export function addressOf(view, name = "", parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value)).toString();
  const path = [view === "overview" ? "" : view, name].filter(Boolean).map(encodeURIComponent).join("/");
  return `#/${path}${query ? `?${query}` : ""}`;
}

export function link(view, name, ...children) {
  return el("a", { href: addressOf(view, name) }, ...children);
}

/** Return a parameter of the page that is shown. */
export function parameter(name) {
  return shown.parameters[name];
}

/** Change parameters of the page that is shown, and of its address. */
export function setParameters(parameters) {
  const { name, ...others } = { ...shown.parameters, ...parameters };
  history.replaceState(null, "", addressOf(shown.view, name, others));
  shown.parameters = parse(location.hash).parameters;
  redraw();
}

/** Follow the address; `then` is called with the title of the page after every drawing. */
export function route(then) {
  onShown = then;
  addEventListener("hashchange", () => open(true));
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault(); // "#content" is no page
    byId("content").focus();
  });
  open(false);
}

export function show(newest) {
  state = newest;
  redraw();
}

function parse(hash) {
  const [path, query = ""] = hash.replace(/^#?\/?/, "").split("?", 2);
  const [view, ...rest] = path.split("/");
  return { view: view || "overview", parameters: { ...Object.fromEntries(new URLSearchParams(query)), name: decoded(rest.join("/")) } };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

async function open(isAsked) {
  const { view, parameters } = parse(location.hash);
  if (shown?.view === view && shown.parameters.name === parameters.name) {
    shown.parameters = parameters;
    return redraw();
  }
  const page = { view, parameters, place: el("div", { class: "view" }), module: null };
  shown = page;
  try {
    page.module = VIEWS.includes(view) ? await import(`./views/${view}.js`) : { title: () => "No such page", draw: drawMissing };
  } catch (error) {
    console.error(view, error);
    page.module = { title: () => "Not loaded", draw: drawFailed };
  }
  if (shown !== page) return; // another was asked for meanwhile
  document.documentElement.dataset.view = view;
  for (const one of document.querySelectorAll("nav a[href^='#/']")) {
    const isThis = one.hash === addressOf(OF_NAVIGATION[view] ?? view);
    setAttribute(one, "aria-current", isThis ? "page" : "false");
  }
  byId("content").replaceChildren(page.place);
  redraw();
  if (!isAsked) return;
  scrollTo(0, 0);
  byId("content").focus({ preventScroll: true });
}

/** Draw the page that is shown again. */
export function redraw() {
  if (state === null || !shown?.module) return;
  try {
    shown.module.draw(shown.place, state, shown.parameters);
  } catch (error) {
    console.error(shown.view, error); // the next state is drawn all the same
  }
  onShown(shown.module.title(shown.parameters));
}

function drawMissing(place) {
  place.replaceChildren(el("p", { class: "empty" }, "There is no such page. ", link("overview", "", "Go to the overview")));
}

function drawFailed(place) {
  place.replaceChildren(el("p", { class: "empty" }, "This page could not be loaded. ", el("a", { href: "/" }, "Load everything again")));
}
