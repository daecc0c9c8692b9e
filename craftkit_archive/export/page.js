"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const NAME = 0, PROJECT = 1, TEMPLATE = 2, CREATED = 3, SIZE = 4, ID = 5, HREF = 6, TEXT = 7;
  const signs = {"&lt;": "<", "&gt;": ">", "&#34;": '"', "&#39;": "'", "&amp;": "&"};
  const plain = (text) => text.includes("&") ? text.replace(/&(?:lt|gt|#34|#39|amp);/g, (sign) => signs[sign]) : text;
  const rows = [];
  for (const line of at("plain").textContent.split("\n")) {
    if (!line.startsWith('<tr><td><a href="')) continue;
    const cells = line.split("<td>"), link = cells[1], quote = link.indexOf('"', 9);
    const name = plain(link.slice(quote + 2, -4));
    const row = [name, plain(cells[2]), plain(cells[3]), cells[4], +cells[5], plain(cells[6]), link.slice(9, quote)];
    row.push([name, row[PROJECT], row[TEMPLATE], row[CREATED], row[ID]].join("\t").toLowerCase());
    rows.push(row);
  }
  document.body.classList.add("live");

  const list = at("list"), body = at("rows"), search = at("search");
  const choices = {project: [at("project"), (row) => row[PROJECT]], template: [at("template"), (row) => row[TEMPLATE]],
    month: [at("month"), (row) => row[CREATED].slice(0, 7) || "undated"]};
  for (const [name, [select, value]] of Object.entries(choices)) {
    const counts = new Map();
    for (const row of rows) counts.set(value(row), (counts.get(value(row)) || 0) + 1);
    select.add(new Option(`All ${name}s`, "\0"));
    for (const key of [...counts.keys()].sort()) select.add(new Option(`${key || "none"} (${counts.get(key)})`, key));
    select.hidden = counts.size < 2;
    select.addEventListener("change", filter);
  }

  let found = rows, column = CREATED, falling = true, opened = null;
  const least = parseInt(getComputedStyle(document.documentElement).getPropertyValue("--row"));
  const size = (bytes) => bytes < 1000 ? `${bytes} B` : bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB`
    : bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = Object.values(choices).filter(([select]) => select.value !== "\0");
    found = rows.filter((row) => words.every((word) => row[TEXT].includes(word))
      && wanted.every(([select, value]) => value(row) === select.value
        || (select.id === "month" && value(row).startsWith(`${select.value}-`))));
    for (const bar of document.querySelectorAll("[data-month]")) bar.classList.toggle("on", bar.dataset.month === at("month").value);
    for (const bar of document.querySelectorAll("[data-project]")) bar.classList.toggle("on", bar.dataset.project === at("project").value);
    sort();
  }
  function sort() {
    const sign = falling ? -1 : 1;
    found.sort((a, b) => a[column] < b[column] ? -sign : a[column] > b[column] ? sign : a[HREF] < b[HREF] ? -1 : 1);
    for (const head of document.querySelectorAll("th[data-column]")) {
      head.setAttribute("aria-sort", +head.dataset.column !== column ? "none" : falling ? "descending" : "ascending");
    }
    at("shown").textContent = found.length === rows.length ? `${rows.length.toLocaleString("en")} PDFs`
      : `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
    place();
    list.scrollTop = 0;
    show();
  }
  // A name takes as many lines as it needs, so rows differ in height: each is taken for one line until it was drawn.
  let tops = new Float64Array(1), drawnWidth = 0;
  const place = () => {
    tops = new Float64Array(found.length + 1);
    for (let n = 0; n < found.length; n++) tops[n + 1] = tops[n] + (found[n].height || least);
  };
  const rowAt = (top) => {
    let low = 0, high = Math.max(found.length - 1, 0);
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (tops[middle] <= top) low = middle; else high = middle - 1;
    }
    return low;
  };
  function pad(pixels) {
    const row = body.insertRow();
    row.className = "pad";
    const cell = row.insertCell();
    cell.colSpan = 5;
    cell.style.height = `${pixels}px`;
  }
  function show(all) {
    if (list.clientWidth !== drawnWidth) {
      for (const row of rows) row.height = 0;
      drawnWidth = list.clientWidth;
      place();
    }
    const top = rowAt(list.scrollTop), below = list.scrollTop - tops[top];
    const first = all ? 0 : Math.max(0, top - 10);
    const last = all ? Math.min(found.length, 10000) : Math.min(found.length, rowAt(list.scrollTop + list.clientHeight) + 11);
    body.replaceChildren();
    if (first) pad(tops[first]);
    for (const row of found.slice(first, last)) {
      const line = body.insertRow();
      line.classList.toggle("on", row === opened);
      const link = document.createElement("a");
      link.href = row[HREF];
      link.textContent = row[NAME];
      link.dir = "auto"; // a name in Arabic or Hebrew keeps its end where it belongs
      link.row = row;
      const cell = line.insertCell();
      cell.append(link);
      cell.title = row[ID] || row[NAME];
      for (const [name, value] of [["project", row[PROJECT]], ["template", row[TEMPLATE]],
        ["created", row[CREATED].replace("T", " ")], ["size", size(row[SIZE])]]) {
        const one = line.insertCell();
        one.className = name;
        one.textContent = value;
      }
    }
    if (last < found.length && !all) pad(tops[found.length] - tops[last]);
    if (!all) measure(first, last, top, below);
  }
  function measure(first, last, top, below) {
    let changed = false;
    const lines = body.querySelectorAll("tr:not(.pad)");
    for (let n = first; n < last; n++) {
      const real = lines[n - first].getBoundingClientRect().height;
      if (Math.abs(real - (found[n].height || least)) > 0.5) changed = true;
      found[n].height = real;
    }
    if (!changed) return;
    place();
    for (const [line, pixels] of [[body.firstChild, tops[first]], [body.lastChild, tops[found.length] - tops[last]]]) {
      if (line.className === "pad") line.firstChild.style.height = `${pixels}px`;
    }
    list.scrollTop = tops[top] + below; // what is read stays where it is
  }
  function open(row) {
    if (!row) return;
    opened = row;
    at("work").classList.add("open");
    at("opened").textContent = row[NAME];
    at("alone").href = row[HREF];
    at("frame").contentWindow.location.replace(new URL(`${row[HREF]}#navpanes=0`, document.baseURI));
    show();
    const number = found.indexOf(row), above = tops[number];
    if (above < list.scrollTop || tops[number + 1] > list.scrollTop + list.clientHeight) list.scrollTop = above - 3 * least;
    show();
  }
  function shut() {
    opened = null;
    at("work").classList.remove("open");
    at("frame").contentWindow.location.replace("about:blank");
    show();
  }
  const step = (by) => open(opened ? found[found.indexOf(opened) + by] : found[0]);

  let due = 0;
  search.addEventListener("input", () => { clearTimeout(due); due = setTimeout(filter, rows.length > 5000 ? 120 : 0); });
  list.addEventListener("scroll", () => requestAnimationFrame(() => show()), {passive: true});
  addEventListener("resize", () => show());
  addEventListener("beforeprint", () => show(true));
  addEventListener("afterprint", () => show());
  body.addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    open(link.row);
  });
  document.querySelector("thead").addEventListener("click", (event) => {
    const head = event.target.closest("th");
    if (!head) return;
    const wanted = +head.dataset.column;
    falling = wanted === column ? !falling : wanted >= CREATED;
    column = wanted;
    sort();
  });
  const pick = (name, value) => {
    const select = choices[name][0];
    if (![...select.options].some((option) => option.value === value)) select.add(new Option(value, value));
    select.value = select.value === value ? "\0" : value;
    filter();
  };
  for (const bar of document.querySelectorAll("[data-month]")) bar.addEventListener("click", () => pick("month", bar.dataset.month));
  for (const bar of document.querySelectorAll("[data-project]")) bar.addEventListener("click", () => pick("project", bar.dataset.project));
  at("clear").addEventListener("click", () => {
    search.value = "";
    for (const [select] of Object.values(choices)) select.value = "\0";
    filter();
  });
  at("close").addEventListener("click", shut);
  at("next").addEventListener("click", () => step(1));
  at("previous").addEventListener("click", () => step(-1));
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") return opened ? shut() : undefined;
    if (/^(INPUT|SELECT)$/.test(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") { event.preventDefault(); search.focus(); }
    if (event.key === "j") step(1);
    if (event.key === "k") step(-1);
  });
  filter();
})();
