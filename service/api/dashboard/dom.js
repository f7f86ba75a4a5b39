// Elements without markup in strings: whatever comes from the catalogue or the log is text, and stays text.

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && name !== "list") made[name] = value;
    else if (value !== false && value !== null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

// A table that a phone shows as one card a row, where each cell says which column it is of. A row is `{ className, cells }`,
// a cell is what is in it; the first one names the row. Roles are told, since a card is no table to a browser.
export function table(label, head, rows) {
  const cell = (content, n) => element(n ? "td" : "th",
    { role: n ? "cell" : "rowheader", "data-label": head[n], ...(n ? {} : { scope: "row" }) }, element("div", {}, ...[content].flat()));
  return element("div", { className: "scroll", tabindex: "0", role: "region", "aria-label": label },
    element("table", { role: "table", "aria-label": label },
      element("thead", { role: "rowgroup" }, element("tr", { role: "row" },
        ...head.map((text) => element("th", { role: "columnheader", scope: "col" }, text)))),
      element("tbody", { role: "rowgroup" }, ...rows.map(({ className = "", cells }) => element("tr", { role: "row", className }, ...cells.map(cell))))));
}

export const number = (value, digits = 3) =>
  value === null || value === undefined ? "–" : Number(value).toLocaleString("en", { maximumSignificantDigits: digits });

export const whole = (value) => Math.round(value).toLocaleString("en");

export const percent = (value) => (100 * value).toLocaleString("en", { maximumFractionDigits: 1 }) + "%";

export function probability(value) {
  if (value >= 0.0995) return percent(value);
  return value >= 0.0001 ? (100 * value).toPrecision(2) + "%" : value.toExponential(1);
}

export function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 90) return `${number(seconds, 2)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${number(seconds / 3600, 2)} h` : `${Math.round(seconds / 86400)} days`;
}

export const time = (seconds) => new Date(1000 * seconds).toLocaleString();
