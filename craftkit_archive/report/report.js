"use strict";
document.documentElement.classList.add("scripted");
const table = document.querySelector("#findings");
if (table) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => ({ row, text: row.textContent.toLowerCase(), verdict: row.dataset.verdict }));
  const words = document.querySelector("#words"), verdict = document.querySelector("#verdict"), shown = document.querySelector("#shown");
  const filter = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const one of rows) {
      const fits = (!verdict.value || one.verdict === verdict.value) && wanted.every((word) => one.text.includes(word));
      one.row.hidden = !fits;
      count += fits;
    }
    shown.textContent = count.toLocaleString("en") + " of " + rows.length.toLocaleString("en") + " shown";
  };
  words.addEventListener("input", filter);
  verdict.addEventListener("change", filter);
  table.tHead.addEventListener("click", (event) => {
    const head = event.target.closest("th");
    if (!head || !event.target.closest("button")) return;
    const down = head.getAttribute("aria-sort") === "ascending", column = head.cellIndex;
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    for (const one of rows) one.key = one.row.cells[column].textContent;
    const order = new Intl.Collator("en", { numeric: true });
    rows.sort((a, b) => (down ? -1 : 1) * order.compare(a.key, b.key));
    body.append(...rows.map((one) => one.row));
  });
  filter();
}
