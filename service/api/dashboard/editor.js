// What views that edit something share: labelled fields, JSON in them, and a line that says how it went.

import { Refused } from "./api.js";
import { element } from "./dom.js";

export const field = (label, input, hint = null) =>
  element("label", { htmlFor: input.id }, element("span", {}, label), input, hint ? element("span", { className: "quiet" }, hint) : null);

// As high as what is in it, within limits.
export const textarea = (id, value, rows, properties = {}) =>
  element("textarea", { id, value, rows: Math.min(20, Math.max(rows, value.split("\n").length)), spellcheck: false, ...properties });

export const pretty = (value) => (value === null || value === undefined ? "" : JSON.stringify(value, null, 1));

// The object that is written in a field, null if it is empty.
export function object(input, name) {
  if (!input.value.trim()) return null;
  let read;
  try {
    read = JSON.parse(input.value);
  } catch (error) {
    throw new Refused(`${name}: this is no JSON (${error.message}).`);
  }
  if (read === null || typeof read !== "object" || Array.isArray(read)) throw new Refused(`${name}: write an object, such as {"a": 1}.`);
  return read;
}

export function show(box, text, bad = false) {
  box.className = bad ? "error" : "";
  box.textContent = text;
}

// Does `work`, and says in `box` why it could not be done.
export async function told(box, work) {
  show(box, "");
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof Refused || error instanceof TypeError)) throw error;
    show(box, error instanceof TypeError ? "The service does not answer." : error.message, true);
    return undefined;
  }
}
