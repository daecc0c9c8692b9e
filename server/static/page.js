// The page's one script. It knows nothing but the public API, and keeps the key in this tab alone.
"use strict";

const KEY = "craftkit-archive-key";
const PAGE = 50;
const byId = (id) => document.getElementById(id);

let key = sessionStorage.getItem(KEY);
let cursor = null;
let asked = null; // the request for a list that is under way
let typing = 0;

/** What an answer other than 200 means, for a person. */
class Problem extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }

  explain() {
    switch (this.code) {
      case "unauthorized":
        return "This key is not valid here: it is mistyped, incomplete or revoked. Check that you copied all of it, "
          + "or ask whoever runs this archive for a new one.";
      case "forbidden":
        return "The project of this key no longer exists, so its PDFs are closed to it. Ask whoever runs this archive.";
      case "not_found":
        return "This render is not in the project of your key.";
      case "internal":
        return "The archive could not read this as it was stored, and sends nothing rather than something damaged. "
          + "Tell whoever runs this archive, and name the id.";
      case "unreachable":
        return "The archive does not answer. Check your connection, and try again.";
      case "bad_request":
        return "The archive does not understand this filter: check the dates and the search.";
      default:
        return this.message;
    }
  }
}

async function call(path, signal) {
  let answer;
  try {
    answer = await fetch(path, { headers: { Authorization: `Bearer ${key}` }, cache: "no-store", signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "unreachable", String(error));
  }
  if (answer.ok) return answer;
  let told = {};
  try {
    told = (await answer.json()).error;
  } catch {
    // Something between here and the archive has answered in its own words.
  }
  throw new Problem(answer.status, told.code, told.message || `The archive answered with ${answer.status}.`);
}

function show(where, text) {
  const place = byId(where);
  place.textContent = text;
  place.hidden = !text;
}

function busy(button, yes) {
  button.setAttribute("aria-disabled", String(yes));
}

function element(name, text, classes) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  if (classes) made.className = classes;
  return made;
}

function size(bytes) {
  if (bytes === null) return "–";
  const units = ["B", "kB", "MB", "GB"];
  let unit = 0;
  while (bytes >= 1000 && unit < 3) {
    bytes /= 1000;
    unit += 1;
  }
  return `${unit && bytes < 10 ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
}

function action(word, render, what) {
  const button = element("button", word);
  button.type = "button";
  button.append(element("span", ` ${render.id}`, "unseen"));
  button.addEventListener("click", async () => {
    if (button.getAttribute("aria-disabled") === "true") return;
    // At once, because browsers let only a click open a tab.
    const tab = word === "Open" ? window.open("", "_blank") : null;
    show("problem", "");
    busy(button, true);
    try {
      const answer = await call(`/v1/renders/${encodeURIComponent(render.id)}/download`);
      // A file, not a blob: browsers that can then save it from the tab under the render's id.
      const file = new File([await answer.blob()], `${render.id}.pdf`, { type: "application/pdf" });
      what(URL.createObjectURL(file), tab);
    } catch (error) {
      if (tab) tab.close();
      refuse(error);
    } finally {
      busy(button, false);
    }
  });
  return button;
}

function showIn(url, tab) {
  if (!tab) {
    URL.revokeObjectURL(url);
    show("problem", "Your browser does not let this page open a tab: allow it, or use Download.");
    return;
  }
  tab.location = url;
  // The viewer may read it again, to print or to save it: it is freed when its tab is closed.
  const watch = setInterval(() => {
    if (!tab.closed) return;
    clearInterval(watch);
    URL.revokeObjectURL(url);
  }, 1000);
}

function row(render) {
  const made = element("tr");
  const when = element("td", "", "time");
  if (render.createdAt) {
    const time = element("time", render.createdAt.slice(0, 16).replace("T", " "));
    time.dateTime = render.createdAt;
    when.append(time);
  }
  const id = element("th");
  id.scope = "row";
  id.append(element("span", render.id, "id"));
  if (render.errorMessage) id.append(element("p", render.errorMessage));
  const state = element("td");
  state.append(element("span", render.status, `state ${render.status}`));
  const actions = element("td", "", "actions");
  if (render.sizeBytes !== null) {
    const save = (url) => {
      const link = element("a");
      link.href = url;
      link.download = `${render.id}.pdf`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(url), 10000);
    };
    actions.append(action("Open", render, showIn), " ", action("Download", render, save));
  } else if (render.status === "succeeded") {
    id.append(element("p", render.disposed ? "Its PDF was disposed." : "Its PDF is not in this archive."));
  }
  made.append(when, id, state, element("td", size(render.sizeBytes), render.sizeBytes === null ? "number none" : "number"), actions);
  return made;
}

function query() {
  const wanted = new URLSearchParams({ limit: PAGE });
  for (const name of ["search", "status", "since", "until"]) {
    const value = byId(name).value.trim();
    if (value) wanted.set(name, value);
  }
  return wanted;
}

/** Fetch a page of the list; without `more`, the first. */
async function list(more) {
  if (asked) asked.abort();
  const own = asked = new AbortController();
  const wanted = query();
  if (more) wanted.set("cursor", cursor);
  busy(byId("more"), true);
  try {
    const page = await (await call(`/v1/renders?${wanted}`, own.signal)).json();
    const rows = byId("rows");
    if (!more) rows.replaceChildren();
    const first = rows.children.length;
    rows.append(...page.renders.map(row));
    cursor = page.nextCursor;
    byId("archive-title").textContent = page.projectName ? `Renders of ${page.projectName}` : "Renders of this project";
    byId("renders").hidden = rows.children.length === 0;
    byId("more").hidden = !page.hasMore;
    show("problem", "");
    byId("told").textContent = tell(rows.children.length, page.hasMore, wanted.size > 1);
    if (more && rows.children[first]) {
      // Where the new rows begin, for those who go by keyboard.
      const next = rows.children[first].querySelector("button");
      if (next) next.focus();
    }
  } finally {
    if (asked === own) {
      asked = null;
      busy(byId("more"), false);
    }
  }
}

function tell(count, more, filtered) {
  if (count === 0) return filtered ? "No render matches. Try another filter." : "This project has no renders here.";
  return more ? `The newest ${count} are shown; there are more.` : `${count} ${count === 1 ? "render" : "renders"}, newest first.`;
}

function refresh() {
  if (key) list(false).catch(refuse);
}

function refuse(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Problem)) throw error;
  if (error.status === 401 || error.status === 403) {
    leave(error.explain());
    return;
  }
  show("problem", error.explain());
  byId("problem").focus();
}

function enter() {
  byId("prefix").textContent = `${key.slice(0, 12)}…`;
  byId("who").hidden = false;
  byId("entrance").hidden = true;
  byId("archive").hidden = false;
  byId("archive-title").focus();
}

function leave(why) {
  if (asked) asked.abort();
  sessionStorage.removeItem(KEY);
  key = null;
  byId("rows").replaceChildren();
  byId("renders").hidden = true;
  byId("filter").reset();
  byId("who").hidden = true;
  byId("archive").hidden = true;
  byId("entrance").hidden = false;
  show("entrance-problem", why);
  byId("key").toggleAttribute("aria-invalid", Boolean(why));
  byId("key").focus();
}

byId("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  key = byId("key").value.trim();
  if (!/^[\x21-\x7e]+$/.test(key)) {
    leave("An API key has no spaces and no special characters: check that you copied only the key.");
    return;
  }
  show("entrance-problem", "");
  busy(byId("enter"), true);
  try {
    await list(false);
    sessionStorage.setItem(KEY, key);
    byId("key").value = "";
    enter();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Problem)) throw error;
    leave(error.explain());
  } finally {
    busy(byId("enter"), false);
  }
});

byId("reveal").addEventListener("change", (event) => {
  byId("key").type = event.target.checked ? "text" : "password";
});
byId("filter").addEventListener("submit", (event) => {
  event.preventDefault();
  refresh();
});
byId("filter").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(refresh, 250);
});
byId("filter").addEventListener("reset", () => setTimeout(refresh));
byId("forget").addEventListener("click", () => leave(""));
byId("more").addEventListener("click", () => {
  if (byId("more").getAttribute("aria-disabled") !== "true") list(true).catch(refuse);
});

if (key) {
  enter();
  refresh();
} else {
  byId("entrance").hidden = false;
}
