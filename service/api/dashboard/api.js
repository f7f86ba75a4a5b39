// Requests to this service. The API key is asked for when one is needed, kept in this variable alone, and never stored.

import { element } from "./dom.js";

let key = "";
let asking = null; // while the dialog is open: all that need a key wait for the same one
const forget = document.getElementById("key");

forget.addEventListener("click", () => {
  key = "";
  forget.hidden = true;
  location.reload();
});

export class Refused extends Error {
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

// A fetch with the key; asks for one and tries again where there is none or it is not enough.
export async function fetched(path, options = {}) {
  for (;;) {
    const sent = key;
    const headers = { ...(options.headers ?? {}), ...(sent ? { "X-API-Key": sent } : {}) };
    const answer = await fetch(`./${path}`, { ...options, headers }); // a colon in it would be taken for a scheme
    const stream = path === "dashboard/stream"; // what every view needs
    if (answer.status !== 401 && !(answer.status === 403 && stream)) return answer;
    if (sent !== key) continue;
    const problem = await answer.json().catch(() => ({}));
    if (answer.status === 403 && problem.code !== "missing_scope") throw new Refused(problem.detail);
    await askForKey(sent ? problem.detail : "");
  }
}

export async function call(method, path, body) {
  const options = { method };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "Content-Type": "application/json" };
  }
  const answer = await fetched(path, options);
  if (answer.status === 204) return null;
  const received = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const fields = (received.errors ?? []).map((error) => `${error.field}: ${error.message}`).join("; ");
    throw new Refused(fields || received.detail || `The service answered ${answer.status}.`, received.code);
  }
  return received;
}

export async function download(path, name) {
  const answer = await fetched(path);
  if (!answer.ok) throw new Refused((await answer.json().catch(() => ({}))).detail ?? `The service answered ${answer.status}.`);
  const link = element("a", { href: URL.createObjectURL(await answer.blob()), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
}

// Server-sent events by fetch, since EventSource sends no key. Calls `on[event](data)`; returns when the stream ends.
export async function stream(path, on) {
  const answer = await fetched(path, { headers: { Accept: "text/event-stream" } });
  if (!answer.ok) throw new Refused(`The service answered ${answer.status}.`);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const [, name, data] = event.match(/^event: (\S+)\ndata: (.*)$/s) ?? [];
      if (name in on) on[name](JSON.parse(data));
    }
  }
}

function askForKey(why) {
  asking ??= new Promise((resolve) => {
    const input = element("input", { type: "password", autocomplete: "off", required: true, pattern: "\\s*[!-~]+\\s*", title: "letters, digits and signs", id: "api-key" });
    const form = element(
      "form", { method: "dialog" },
      element("h2", { id: "ask-title" }, "An admin key is needed"),
      element("p", {}, "If it also has the scopes serve and feedback, you can act as a user under “Try it”. The key stays in this tab's memory until the page is closed or reloaded, and is not stored anywhere."),
      why ? element("p", { className: "error", role: "alert" }, why) : null,
      element("label", { htmlFor: "api-key" }, "API key"), input,
      element("div", { className: "row" }, element("button", { className: "main" }, "Use it")),
    );
    openDialog(form, (confirmed) => {
      if (!confirmed) return false; // there is nothing to show without one
      key = input.value.trim();
      forget.hidden = false;
      asking = null;
      resolve();
      return true;
    });
  });
  return asking;
}

// Whether the user confirms; the button says what happens.
export function confirmed(title, text, button, danger = true) {
  return new Promise((resolve) => {
    const cancel = element("button", { type: "button" }, "Cancel");
    const form = element(
      "form", { method: "dialog" },
      element("h2", { id: "ask-title" }, title),
      element("p", {}, text),
      element("div", { className: "row" }, cancel, element("button", { className: danger ? "danger" : "main" }, button)),
    );
    const close = openDialog(form, (yes) => {
      resolve(yes);
      return true;
    });
    cancel.addEventListener("click", () => close(false));
    cancel.focus();
  });
}

function openDialog(form, done) {
  const dialog = document.getElementById("ask");
  const close = (yes) => {
    if (done(yes)) dialog.close();
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    close(true);
  });
  dialog.oncancel = (event) => {
    event.preventDefault();
    close(false);
  };
  dialog.replaceChildren(form);
  dialog.showModal();
  return close;
}
