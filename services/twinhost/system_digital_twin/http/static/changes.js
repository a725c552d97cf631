// Applies a difference between two states; http/changes.py makes it, and says what it looks like.

/** Return the value after the change. What did not change stays the same object. */
export function changed(before, change) {
  if (Array.isArray(change)) return change[0];
  return Array.isArray(before) ? changedList(before, change) : changedObject(before, change);
}

function changedObject(before, change) {
  const after = new Map(Object.entries(before)); // an object would take the name "__proto__" for its prototype
  for (const [name, difference] of Object.entries(change)) {
    if (Array.isArray(difference) && difference.length === 0) after.delete(name);
    else after.set(name, changed(after.get(name), difference));
  }
  return Object.fromEntries(after);
}

function changedList(before, { of: parts, at = {} }) {
  const after = parts === undefined ? [...before] : parts.flatMap((part) => (Array.isArray(part) ? before.slice(...part) : part.new));
  for (const [index, difference] of Object.entries(at)) after[index] = changed(after[index], difference);
  return after;
}
