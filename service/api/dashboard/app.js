// The page: which view is shown, and the stream that all views live on.

import { Refused, stream } from "./api.js";
import { element } from "./dom.js";
import * as items from "./items.js";
import * as logs from "./logs.js";
import * as now from "./now.js";
import * as placements from "./placements.js";
import * as tryIt from "./try.js";
import * as users from "./users.js";
import * as versions from "./versions.js";

const views = { now, versions, items, users, placements, try: tryIt, logs };
const titles = { now: "Now", versions: "Versions", items: "Items", users: "Users", placements: "Placements", try: "Try it", logs: "Logs" };
const GRAVE = new Set(["frozen", "rolled_back", "no_policy", "damaged", "redis_away", "disk"]);
const main = document.getElementById("view");
const connection = document.getElementById("connection");
const received = { now: null, moments: [] }; // from the stream
let shown = null;

function show() {
  const name = location.hash.slice(1) in views ? location.hash.slice(1) : "now";
  if (name === shown) return;
  const first = shown === null;
  shown = name;
  document.title = `${titles[name]} – ialp`;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  main.replaceChildren();
  views[name].open(main, received);
  if (!first) main.focus();
}

function warn(trouble) {
  const box = document.getElementById("trouble");
  const texts = trouble.map((one) => one.text).join("\n");
  if (box.dataset.texts === texts) return; // so that a screen reader hears news alone
  box.dataset.texts = texts;
  box.replaceChildren(
    ...trouble.map((one) => element("p", { className: GRAVE.has(one.kind) ? "bad" : "" }, one.text)),
  );
}

function say(text) {
  if (connection.textContent !== text) connection.textContent = text; // a screen reader hears every change
}

async function listen() {
  for (;;) {
    try {
      say(received.now ? "Reconnecting…" : "Connecting…");
      await stream("dashboard/stream", {
        history: (moments) => update({ moments }),
        moments: (more) => update({ moments: received.moments.concat(more).slice(-6000) }),
        now: (data) => {
          say("Live");
          warn(data.trouble);
          update({ now: data });
        },
      });
      say("No connection to the service; trying again…");
    } catch (error) {
      if (!(error instanceof TypeError || error instanceof Refused)) throw error;
      say(error instanceof Refused ? error.message : "No connection to the service; trying again…");
    }
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}

function update(change) {
  Object.assign(received, change);
  views[shown].update?.(received);
}

addEventListener("hashchange", show);
show();
listen();
