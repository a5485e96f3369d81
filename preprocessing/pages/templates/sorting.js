"use strict";
// A click on a column's header sorts the rows of a table by it: numbers by value, largest first; words by alphabet.
function makeSortable(root) {
  for (const table of root.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((header, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      button.onclick = () => {
        const words = header.classList.contains("left");
        const up = header.ariaSort ? header.ariaSort === "descending" : words;
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        header.ariaSort = up ? "ascending" : "descending";
        const rows = [...table.tBodies[0].rows].sort((a, b) => (up ? 1 : -1) * order(cell(a, place), cell(b, place)));
        table.tBodies[0].append(...rows);
      };
    });
  }
}

function cell(row, place) {
  const text = row.cells[place].textContent.trim().replace("−", "-");
  const number = Number.parseFloat(text.replace(/,/g, ""));
  return Number.isNaN(number) ? text : number;
}

// Numbers are larger than words, so that missing values come last.
function order(a, b) {
  if (typeof a !== typeof b) return typeof a === "number" ? 1 : -1;
  return a < b ? -1 : Number(a > b);
}
makeSortable(document);
