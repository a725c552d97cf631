// Loads the page again if its script or its stylesheet can't be fetched: a browser aborts all requests when the network
// of its machine changes, as when an engine starts a container, and a page without its script would wait forever.

const AGAIN_MS = 1_000;
const NEEDED = 'script[type="module"], link[href="/assets/style.css"]';

addEventListener(
  "error",
  ({ target }) => {
    if (target instanceof Element && target.matches(NEEDED)) setTimeout(() => location.reload(), AGAIN_MS);
  },
  { capture: true }, // such events don't bubble
);
