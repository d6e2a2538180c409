const marks = [...document.querySelectorAll("[data-point]")], tip = document.getElementById("tip");

function choose(number) {
  for (const view of document.querySelectorAll(".view")) view.hidden = view.id !== "point-" + number;
  for (const mark of marks) mark.classList.toggle("lit", mark.dataset.point === number);
}
for (const mark of marks) {
  mark.addEventListener("click", () => choose(mark.dataset.point));
  mark.addEventListener("keydown", (event) => { if (event.key === "Enter") choose(mark.dataset.point); });
}

for (const mark of document.querySelectorAll("[data-tip]")) {
  mark.addEventListener("mousemove", (event) => {
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
    tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8) + "px";
  });
  mark.addEventListener("mouseleave", () => { tip.hidden = true; });
}

const limits = [...document.querySelectorAll("[data-limit]")], rows = [...document.querySelectorAll("#points tbody tr")];
function filter() {
  const most = limits.map((slider) => JSON.parse(slider.dataset.losses)[slider.value]);
  for (const slider of limits) slider.previousElementSibling.textContent = JSON.parse(slider.dataset.texts)[slider.value];
  let within = 0;
  for (const row of rows) {
    const out = JSON.parse(row.dataset.losses).some((loss, i) => loss > most[i]);
    within += !out;
    for (const mark of marks) if (mark.dataset.point === row.dataset.point) mark.classList.toggle("out", out);
  }
  document.getElementById("within").textContent = within === rows.length ? "" : within + " of " + rows.length + " are within the limits.";
}
for (const slider of limits) slider.addEventListener("input", filter);
filter();

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const up = !head.classList.contains("up");
    const key = (row) => { const cell = row.cells[column]; return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value); };
    heads.forEach((other) => other.classList.remove("up", "down"));
    head.classList.add(up ? "up" : "down");
    const sorted = [...table.tBodies[0].rows].sort((a, b) => (key(a) > key(b) ? 1 : key(a) < key(b) ? -1 : 0) * (up ? 1 : -1));
    table.tBodies[0].append(...sorted);
  }));
}
