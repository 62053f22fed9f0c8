// Sorts tables by a click on a heading. Without it the page shows the same in the order written.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.querySelectorAll("th[data-sort]").forEach((heading) => {
    const column = [...heading.parentNode.children].indexOf(heading);
    const isNumber = heading.dataset.sort === "n";
    heading.tabIndex = 0;
    heading.setAttribute("role", "button");
    const sort = () => {
      const down = heading.getAttribute("aria-sort") !== "descending";
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => isNumber ? Number(row.cells[column].dataset.value) : row.cells[column].textContent;
      const compare = (a, b) => isNumber ? key(a) - key(b) : key(b).localeCompare(key(a));
      [...body.rows].sort((a, b) => (down ? -1 : 1) * compare(a, b)).forEach((row) => body.append(row));
    };
    heading.addEventListener("click", sort);
    heading.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(); }
    });
  });
}
