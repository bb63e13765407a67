// Elements, numbers and the data in this file. Text from data enters the page only as text nodes, never as markup.

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") node.style.cssText = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(3).filter((child) => child !== null && child !== undefined));
  return node;
}

const byId = (id) => document.getElementById(id);
const readJson = (id) => JSON.parse(byId(id).textContent);

const record = readJson("record");
const page = readJson("page");
const files = page.files ?? null; // of a report folder
const caseRows = new Map((page.case_rows ?? []).map((row) => [row.name, row])); // (a new patient has none)
// The doses of the page: reference and prediction, or only the prediction for a new patient.
const isAlone = page.doses?.length === 1;
const caseNames = [...caseRows.keys()];
let caseOrder = caseNames; // in the order of the table of cases

// The parts in a file next to this page. A frame reads them: from file:// only a script tag could also read a file, and
// would run it. The file's own policy allows only the script that sends its parts.
function openFile(name) {
  return new Promise((resolve, reject) => {
    const path = `${files.folder}/${name}.html`;
    const frame = el("iframe", { hidden: true, src: `${path}#${files.key}`, title: "data" });
    const take = (event) => { if (event.source === frame.contentWindow) end(resolve, event.data); };
    const end = (finish, value) => { removeEventListener("message", take); frame.remove(); finish(value); };
    const missing = () => end(reject, new Error(`${path} is missing or damaged: keep all files of the report's folder together.`));
    addEventListener("message", take);
    frame.addEventListener("load", () => setTimeout(missing, 2000)); // (no effect after the data have arrived)
    document.body.append(frame);
  });
}

let lastFile = { name: null, parts: null };
async function partOfFile(id) {
  const place = /-(\d+)$/.exec(id);
  const name = place ? `case_${place[1]}` : id;
  if (lastFile.name !== name) lastFile = { name, parts: openFile(name) };
  const file = lastFile;
  try {
    const text = (await file.parts)[id];
    if (typeof text !== "string") throw new Error(`${files.folder}/${name}.html is of another report.`);
    return text;
  } catch (error) {
    if (lastFile === file) lastFile = { name: null, parts: null };
    throw error;
  }
}

// The complete record as text; in a folder its cases are loaded first.
let wholeRecord = null;
const whole = () => (wholeRecord ??= !files ? Promise.resolve(byId("record").textContent) : unpacked("whole").then((buffer) => {
  const text = new TextDecoder().decode(buffer);
  Object.assign(record.cases, JSON.parse(text).cases);
  return text;
}));

// A part after this script in the file, once the file is loaded.
async function part(id) {
  if (files) return partOfFile(id);
  while (document.readyState === "loading" && !byId(id)?.nextElementSibling) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return byId(id).textContent;
}

async function unpacked(id) {
  const text = await part(id);
  if (typeof DecompressionStream === "undefined") {
    throw new Error("This browser is too old for pictures and charts: it has no DecompressionStream.");
  }
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

function showProblem(error) {
  const problem = byId("problem");
  problem.textContent = error instanceof Error ? error.message : String(error);
  problem.hidden = false;
}

const MINUS = "\u2212";
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const fixed = (value, digits) => (isNumber(value) ? value.toFixed(digits).replace(/^-(?=0*\.?0*$)/, "").replace(/^-/, MINUS) : "\u2013");
const signed = (value, digits) => (isNumber(value) && value > 0 && Number(value.toFixed(digits)) > 0 ? "+" : "") + fixed(value, digits);
const withUnit = (value, unit, digits = 2) => fixed(value, digits) + (isNumber(value) && unit ? ` ${unit}` : "");
const digitsFor = (unit) => (unit === "" ? 3 : 2);
const plain = (value) => (isNumber(value) ? String(Number(value.toFixed(2))) : "\u2013");

const VERDICT_MARKS = { pass: "\u2713", acceptable: "\u2248", fail: "\u2717", uncertain: "?", "not evaluable": "\u2205" };
function chip(verdict) {
  return verdict ? el("span", { class: `chip ${verdict}` }, `${VERDICT_MARKS[verdict] ?? ""} ${verdict}`) : "\u2013";
}

// Panels: one module each in the folder "panels". A panel names its view, its place there (panels are in the order of
// their places), and a function that builds it: an element, {section, draw} if it is redrawn when the view is shown or
// the theme changes, or null for nothing to show.
const panels = [];
const addPanel = (panel) => { panels.push(panel); };
const panelsOf = (view) => panels.filter((panel) => panel.view === view).sort((a, b) => a.place - b.place);
const asBuilt = (built) => (built instanceof Node ? { section: built } : built);
const buildPanels = (view, ...of) => panelsOf(view).map(({ build }) => build(...of)).filter(Boolean).map(asBuilt);

function card(title, ...children) {
  return el("section", { class: "card" }, el("h2", {}, title), ...children);
}

// The shown part of a table as CSV, in which a spreadsheet reads no text as a formula.
function csvOf(rows) {
  const cell = (node) => {
    const text = node.innerText.trim().replaceAll(/\s+/g, " ").replaceAll(MINUS, "-").replace(/^\u2013$/, "");
    const safe = /^[=@]|^[+-](?![\d.])/.test(text) ? `'${text}` : text;
    return /[",]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  return rows.map((row) => [...row.cells].map(cell).join(",")).join("\r\n") + "\r\n";
}

function save(text, name, type) {
  const link = el("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// columns: {label, value(row) -> key for sorting, show(row) -> content, number, note, header, wrap}
function table(columns, rows, { caption, sortBy, descending = false, rowClass, roiOf, onOrder } = {}) {
  const body = el("tbody");
  const heads = columns.map((column, index) => {
    const label = column.value ? el("button", { type: "button", onclick: () => sort(index) }, column.label) : column.label;
    return el("th", { scope: "col", class: [column.number && "number", column.class].filter(Boolean).join(" ") || null, title: column.note }, label);
  });
  let current = sortBy;
  let down = descending;
  function fill() {
    const column = columns[current];
    const ordered = [...rows];
    if (column) {
      const key = (row) => column.value(row);
      const missing = (value) => value === null || value === undefined;
      ordered.sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (missing(x) || missing(y)) return missing(x) - missing(y);
        const order = typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y;
        return down ? -order : order;
      });
    }
    onOrder?.(ordered);
    heads.forEach((head, index) => {
      if (index === current) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    body.replaceChildren(...ordered.map((row) => el("tr", { class: rowClass?.(row), "data-roi": roiOf?.(row) },
      columns.map((c) => c.header
        ? el("th", { scope: "row" }, c.show(row))
        : el("td", { class: [c.number && "number", c.wrap && "wrap", c.class].filter(Boolean).join(" ") || null }, c.show(row))))));
  }
  function sort(index) {
    down = index === current ? !down : Boolean(columns[index].number);
    current = index;
    fill();
  }
  fill();
  const name = `${(caption ?? "table").split(/[;,]/)[0].toLowerCase().replaceAll(/[^a-z0-9]+/g, "_")}.csv`;
  const csv = el("button", { type: "button", class: "csv", title: "Save this table as it is shown", onclick: () => save(`\ufeff${csvOf([...body.parentElement.rows])}`, name, "text/csv") }, "CSV");
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption ?? "table" },
    el("table", {}, caption ? el("caption", {}, caption, " ", csv) : null, el("thead", {}, el("tr", {}, heads)), body));
}

function select(label, options, onchange, value) {
  const box = el("select", { "aria-label": label, onchange: () => onchange(box.value) },
    options.map(([key, text]) => el("option", { value: key, selected: key === value }, text)));
  return el("label", {}, label, box);
}

function isDark() {
  const theme = document.documentElement.dataset.theme;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

const colourVariable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const roiColour = (roi, dark = isDark()) => page.colours[roi]?.[dark ? "dark" : "light"] ?? (dark ? "#cccccc" : "#555555");
// Lengths of strokes and gaps of a curve, in pixels; none for an unbroken line.
const roiStrokes = (roi, dose) => page.colours[roi]?.strokes[dose] ?? [];
const undefinedOf = (name) => record.cases[name].undefined ?? {};
const missingOf = (name) => record.cases[name].missing ?? record.missing?.[name] ?? {};

// Plotly's own list of buttons has one that uploads the chart to a cloud: only these are shown.
const CHART_CONFIG = {
  displaylogo: false, responsive: true, plotlyServerURL: "", showLink: false,
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
};
