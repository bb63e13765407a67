// The page of a comparison. Numbers come from the record, sentences from the page data; helpers are in dom.js.

const state = { candidate: candidates[0], level: "score", shown: "relative", forest: "score", quantity: 0 };

const of = (quantity) => quantity.paired[state.candidate];
const isSignificant = (paired) => paired.p_holm < record.statistics.alpha;
const range = (ends, digits) => (ends ? `[${signed(ends[0], digits)}, ${signed(ends[1], digits)}]` : "");
const pValue = (p) => (p < 0.001 ? "< 0.001" : p >= 0.9995 ? "1" : p.toFixed(3));
const unitText = (unit) => (unit ? ` (${unit})` : "");
const levelQuantities = (level) => record.quantities.filter((quantity) => level === "all" || quantity.level === level);

const VERDICTS = { better: ["chip pass", "\u2193 "], worse: ["chip fail", "\u2191 "] };
function outcome(quantity) {
  const verdict = page.verdicts[state.candidate][record.quantities.indexOf(quantity)];
  const [look, mark] = VERDICTS[verdict] ?? ["muted", ""];
  return el("span", { class: look }, mark + verdict);
}

function tiles() {
  return el("div", { class: "tiles" }, levelQuantities("score").map((quantity) => {
    const paired = of(quantity);
    const change = paired.relative_percent === null ? null : `${signed(paired.relative_percent, 1)} % `;
    return el("div", { class: "tile" },
      el("div", { class: "label" }, quantity.name),
      el("div", { class: "value" }, fixed(quantity.models[state.candidate].mean, 2), " ", el("small", {}, quantity.unit)),
      el("div", { class: "against" }, `${baseline}: ${withUnit(quantity.models[baseline].mean, quantity.unit)}`),
      el("div", { class: "change" }, change && el("b", {}, change), el("small", {}, range(paired.relative_interval, 1))),
      outcome(quantity));
  }));
}

function quantityTable() {
  const mean = (model) => ({
    label: `${model} mean`, number: true, note: "mean absolute error over all terms",
    value: (q) => q.models[model].mean, show: (q) => fixed(q.models[model].mean, 3),
  });
  const bias = (model) => ({
    label: `${model} bias`, number: true, note: "mean of predicted minus reference",
    value: (q) => q.models[model].bias, show: (q) => (q.models[model].bias === null ? "\u2013" : signed(q.models[model].bias, 3)),
  });
  const columns = [
    { label: "Quantity", header: true, value: (q) => q.name,
      show: (q) => el("button", { type: "button", class: "link", onclick: () => choose(record.quantities.indexOf(q)) }, q.name) },
    { label: "Unit", value: (q) => q.unit, show: (q) => q.unit },
    { label: "n", number: true, note: "patients; missing cases in brackets", value: (q) => q.n, show: patientsCell },
    mean(baseline), mean(state.candidate),
    { label: "Difference", number: true, note: "mean paired difference of absolute errors, 95 % interval; negative is better",
      value: (q) => of(q).mean_difference, show: (q) => valueAndRange(of(q).mean_difference, of(q).interval, 3) },
    { label: "Change, %", number: true, note: "relative change of the mean error, 95 % interval",
      value: (q) => of(q).relative_percent, show: (q) => valueAndRange(of(q).relative_percent, of(q).relative_interval, 1) },
    { label: "p", number: true, note: "sign flips of patients, of the mean difference", value: (q) => of(q).p, show: (q) => pValue(of(q).p) },
    { label: "p (Holm)", number: true, note: "corrected in the family", value: (q) => of(q).p_holm, show: (q) => pValue(of(q).p_holm) },
    { label: "Effect", number: true, note: "matched-pairs rank-biserial correlation",
      value: (q) => of(q).effect, show: (q) => signed(of(q).effect, 2) },
    { label: "Better / equal / worse", number: true, note: "patients", value: (q) => of(q).n_better,
      show: (q) => `${of(q).n_better} / ${of(q).n_equal} / ${of(q).n_worse}` },
    { label: "Outcome", value: (q) => (isSignificant(of(q)) ? of(q).mean_difference : 0), show: outcome },
  ];
  const rows = levelQuantities(state.level);
  const notes = [...new Set(rows.flatMap((q) => of(q).notes))];
  const noteNumbers = (q) => of(q).notes.map((note) => notes.indexOf(note) + 1).join(", ");
  if (notes.length) columns.push({ label: "Notes", show: noteNumbers });
  columns.push(bias(baseline), bias(state.candidate));
  const numbers = table(columns, rows, {
    caption: `${state.candidate} against ${baseline}. Differences are of absolute errors: negative is better. A heading sorts; a name shows its patients.`,
  });
  return el("div", {}, numbers, notes.length ? el("ol", { class: "muted" }, notes.map((note) => el("li", {}, note))) : null);
}

function valueAndRange(value, ends, digits) {
  if (value === null) return "\u2013";
  return [signed(value, digits), " ", el("small", {}, range(ends, digits))];
}

function patientsCell(quantity) {
  const missing = Object.entries(quantity.missing);
  if (!missing.length) return String(quantity.n);
  const reasons = missing.map(([name, reason]) => `${name}: ${reason}`).join("\n");
  return el("span", { title: reasons }, `${quantity.n} (${missing.length} missing)`);
}

function goalTable() {
  const flips = (goal) => goal.paired[state.candidate];
  const count = (label, value, note) => ({ label, note, number: true, value, show: (goal) => String(value(goal)) });
  const columns = [
    { label: "Goal", header: true, value: (goal) => goal.name, show: (goal) => page.goals[record.goals.indexOf(goal)] },
    count("n", (goal) => goal.n, "cases in which it was judged"),
    count("Met by reference", (goal) => goal.n_met),
    count(`${baseline} right`, (goal) => goal.n_right[baseline]),
    count(`${state.candidate} right`, (goal) => goal.n_right[state.candidate]),
    count(`Only ${state.candidate} right`, (goal) => flips(goal).n_gained),
    count(`Only ${baseline} right`, (goal) => flips(goal).n_lost),
    { label: "p", number: true, note: "sign flips of patients", value: (goal) => flips(goal).p, show: (goal) => pValue(flips(goal).p) },
    { label: "p (Holm)", number: true, note: "corrected over the goals", value: (goal) => flips(goal).p_holm, show: (goal) => pValue(flips(goal).p_holm) },
  ];
  return table(columns, record.goals, {
    caption: "A prediction is right where it meets the goal (acceptable variation included) exactly where the reference does.",
  });
}

function modelTable() {
  const columns = page.models.columns[state.candidate].map((label, index) => ({
    label, header: index === 0, wrap: true,
    show: (row) => (index === 3 && row[3] ? el("span", { class: `chip ${row[3] === "differs" ? "uncertain" : "not"}` }, row[3]) : row[index]),
  }));
  const rows = page.models.rows[state.candidate];
  const caption = "What made the predictions, as their evaluations say.";
  return el("div", {}, page.models.unknown.map((sentence) => el("p", { class: "muted" }, sentence)),
    rows.length ? table(columns, rows, { caption }) : null);
}

const draw = (node, traces, more) => plotly().then((Plotly) => {
  if (node.isConnected) return Plotly.react(node, traces, chartLayout(more), CHART_CONFIG);
}).catch(showProblem);
// An axis centred on zero.
const aroundZero = (values) => {
  const reach = 1.08 * (Math.max(...values.map(Math.abs)) || 1);
  return { range: [-reach, reach], zeroline: true, zerolinewidth: 2 };
};

function shownKinds() {
  const units = [...new Set(levelQuantities(state.forest).map((quantity) => quantity.unit))];
  return [["relative", "Relative change (%)"], ...units.map((unit) => [`unit:${unit}`, `Mean difference${unitText(unit)}`])];
}

function drawForest(node) {
  const relative = state.shown === "relative";
  const value = (q) => (relative ? of(q).relative_percent : of(q).mean_difference);
  const ends = (q) => (relative ? of(q).relative_interval : of(q).interval);
  const rows = levelQuantities(state.forest).filter((q) => (relative || `unit:${q.unit}` === state.shown) && value(q) !== null);
  const colour = (q) => colourVariable(!isSignificant(of(q)) ? "--muted" : of(q).mean_difference < 0 ? "--accent" : "--bad");
  const reach = (q, end) => Math.abs(ends(q)[end] - value(q));
  const digits = relative ? 1 : 3;
  const traces = rows.map((q) => ({
    type: "scatter", mode: "markers", x: [value(q)], y: [asText(q.name)], cliponaxis: false,
    error_x: ends(q) && { type: "data", symmetric: false, array: [reach(q, 1)], arrayminus: [reach(q, 0)], color: colour(q), thickness: 2, width: 5 },
    marker: { size: 9, color: colour(q), symbol: isSignificant(of(q)) ? "circle" : "circle-open" },
    hovertemplate: `${asText(q.name)}<br>${signed(value(q), digits)} ${range(ends(q), digits)}<br>p (Holm) ${asText(pValue(of(q).p_holm))}, n = ${q.n}<extra></extra>`,
  }));
  node.style.height = `${110 + 24 * rows.length}px`;
  const title = relative ? "change of the mean error, %" : `mean difference of absolute errors${unitText(state.shown.slice(5))}`;
  const side = (text, xanchor) => ({ text, x: 0, xref: "x", xanchor, y: 1, yref: "paper", yanchor: "bottom", showarrow: false, xshift: xanchor === "left" ? 6 : -6, font: { color: colourVariable("--muted") } });
  return draw(node, traces, {
    margin: { l: 20, r: 20, t: 30, b: 50 },
    annotations: [side("\u2190 better", "right"), side("worse \u2192", "left")], // (on the two sides of zero, wherever it is moved to)
    xaxis: { title: { text: `${title}, against ${asText(baseline)}` }, ...aroundZero(rows.flatMap((q) => [value(q), ...(ends(q) ?? [])])) },
    yaxis: { autorange: "reversed", type: "category" },
  });
}

function drawPatients(slopes, differences) {
  const quantity = record.quantities[state.quantity];
  const cases = Object.entries(quantity.patients);
  const error = (entry, model) => entry.errors[model];
  const difference = (entry) => error(entry, state.candidate) - error(entry, baseline);
  const shown = [baseline, state.candidate];
  const lineOf = ([, entry]) => shown.map((model) => error(entry, model));
  const directions = [[(d) => d < 0, "--accent"], [(d) => d > 0, "--bad"], [(d) => d === 0, "--muted"]];
  const lines = directions.map(([is, colour]) => { // one trace per direction, because one per patient takes seconds to draw
    const own = cases.filter(([, entry]) => is(difference(entry)));
    return {
      type: "scatter", mode: "lines+markers", opacity: 0.55, line: { color: colourVariable(colour), width: 1.2 }, marker: { size: 5 },
      x: own.flatMap(() => [0, 1, null]), y: own.flatMap((one) => [...lineOf(one), null]),
      text: own.flatMap(([name]) => [asText(name), asText(name), ""]), customdata: own.flatMap(([name]) => [name, name, null]),
      hovertemplate: `%{text}: %{y:.3f}${asText(unitText(quantity.unit))}<extra></extra>`,
    };
  }).filter((trace) => trace.x.length);
  const boxes = shown.map((model, i) => ({
    type: "box", x: cases.map(() => (i ? 1.22 : -0.22)), y: cases.map(([, entry]) => error(entry, model)), boxpoints: false, width: 0.16,
    line: { color: colourVariable("--ink"), width: 1.2 }, fillcolor: "rgba(0,0,0,0)", hoverinfo: "y",
  }));
  const isFew = cases.length < page.min_patients;
  const opened = draw(slopes, isFew ? lines : [...lines, ...boxes], {
    xaxis: { tickvals: [0, 1], ticktext: shown.map(asText), range: [-0.5, 1.5], showgrid: false, zeroline: false },
    yaxis: { title: { text: asText(quantity.name + unitText(quantity.unit)) }, rangemode: "tozero" },
  });
  const paired = of(quantity);
  const values = cases.map(([, entry]) => difference(entry));
  const strip = isFew ? {
    type: "scatter", mode: "markers", x: values, y: cases.map(() => "patients"), text: cases.map(([name]) => asText(name)), customdata: cases.map(([name]) => name),
    hovertemplate: "%{text}: %{x:+.3f}<extra></extra>", marker: { size: 7, color: colourVariable("--accent"), opacity: 0.7 },
  } : {
    type: "violin", orientation: "h", x: values, y: cases.map(() => "patients"), points: "all", jitter: 0.6, pointpos: 0, spanmode: "hard",
    text: cases.map(([name]) => asText(name)), customdata: cases.map(([name]) => name), hovertemplate: "%{text}: %{x:+.3f}<extra></extra>", hoveron: "points",
    line: { color: colourVariable("--muted"), width: 1 }, fillcolor: colourVariable("--soft"), marker: { size: 6, color: colourVariable("--accent"), opacity: 0.7 },
  };
  const mean = {
    type: "scatter", mode: "markers", x: [paired.mean_difference], y: ["mean"], marker: { size: 11, symbol: "diamond", color: colourVariable("--ink") },
    error_x: paired.interval && {
      type: "data", symmetric: false, array: [paired.interval[1] - paired.mean_difference],
      arrayminus: [paired.mean_difference - paired.interval[0]], color: colourVariable("--ink"), thickness: 2, width: 7,
    },
    hovertemplate: `mean ${signed(paired.mean_difference, 3)} ${range(paired.interval, 3)}<extra></extra>`,
  };
  const drawn = draw(differences, [strip, mean], {
    xaxis: { title: { text: `${asText(state.candidate)} \u2212 ${asText(baseline)}${unitText(quantity.unit)}<br>${isFew ? `${counted(cases.length, "patient")}: too few to tell` : "negative is better"}` }, ...aroundZero([...values, ...(paired.interval ?? [])]) },
    yaxis: { type: "category", categoryorder: "array", categoryarray: ["mean", "patients"] },
  });
  for (const [chart, done] of [[slopes, opened], [differences, drawn]]) {
    done.then(() => chart.on?.("plotly_click", (event) => { if (event.points[0]?.customdata) openCase(casesOf(event.points[0].customdata)[0]); }));
  }
}

const casesOf = (patient) => page.cases.filter((name) => record.cases[name] === patient);

function patientTable() {
  const { patients } = record.quantities[state.quantity];
  const error = (name, model) => patients[record.cases[name]]?.errors[model] ?? null;
  const change = (name) => (patients[record.cases[name]] ? error(name, state.candidate) - error(name, baseline) : null);
  const columns = [
    { label: "Case", header: true, value: (name) => name, show: (name) => el("a", { href: caseLink(name) }, name) },
    ...(page.cases.every((name) => record.cases[name] === name) ? [] : [{ label: "Patient", value: (name) => record.cases[name], show: (name) => record.cases[name] }]),
    ...[baseline, state.candidate].map((model) => ({ label: model, number: true, value: (name) => error(name, model), show: (name) => fixed(error(name, model), 3) })),
    { label: "Difference", number: true, value: change, show: (name) => signed(change(name), 3) },
  ];
  return el("div", { class: "patients" }, table(columns, page.cases, {
    sortBy: columns.length - 1, descending: true, caption: "Absolute errors of the quantity above, those that fare worst first; a name opens the patient",
  }));
}

function patientsCard() {
  const names = record.quantities.map((quantity, i) => [String(i), quantity.name]);
  const paired = of(record.quantities[state.quantity]);
  const body = el("div", {}, el("p", { role: "status" }, "Opening\u2026"));
  const fill = () => {
    const [slopes, differences] = ["slopes", "differences"].map((id) => el("div", { class: "chart", id }));
    body.replaceChildren(el("div", { class: "pair" },
      el("div", {}, el("h3", {}, "Absolute error of each patient"), slopes),
      el("div", {}, el("h3", {}, "Paired differences, their mean and its 95 % interval"), differences)), patientTable());
    return () => drawPatients(slopes, differences);
  };
  const section = el("section", { class: "card", id: "patients" }, el("h2", {}, "Patients"),
    el("div", { class: "controls" }, select("Quantity", names, (index) => set("quantity", Number(index)), String(state.quantity))),
    el("p", {}, `${counted(paired.n_better, "patient")} better, ${paired.n_equal} equal, ${paired.n_worse} worse. `, paired.notes.join("; ")), body);
  if (errorsReady) return { section, draw: fill() };
  const afterPaint = new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
  return { section, draw: () => afterPaint.then(loadErrors).then(() => { if (section.isConnected) fill()(); }).catch(showProblem) };
}

function choose(index) {
  state.quantity = index;
  render();
  byId("patients").scrollIntoView({ block: "start" });
}

function set(name, value) {
  state[name] = value;
  render();
}

function render() {
  const levels = Object.entries(page.levels);
  if (!shownKinds().some(([key]) => key === state.shown)) state.shown = "relative";
  const forest = el("div", { class: "chart", id: "forest" });
  const patients = patientsCard();
  // Flat and without nulls, which the page would show as text.
  byId("content").replaceChildren(...[
    el("h1", { class: "print-only" }, page.title),
    page.no_images ? el("p", { class: "muted" }, `No slices and DVH curves of patients: ${page.no_images}.`) : null,
    el("div", { class: "controls" }, candidates.length > 1
      ? select("Model", candidates.map((name) => [name, name]), (name) => set("candidate", name), state.candidate) : null),
    page.dropped.map((sentence) => el("p", { class: "notice" }, sentence)),
    tiles(),
    card(`${state.candidate} against ${baseline}`,
      el("ul", { class: "headlines" }, page.headlines[state.candidate].map((sentence) => el("li", {}, sentence)))),
    card("Differences with 95 % intervals",
      el("div", { class: "controls" },
        select("Quantities", levels, (level) => set("forest", level), state.forest),
        select("Show", shownKinds(), (kind) => set("shown", kind), state.shown)),
      el("p", { class: "muted" }, "Filled: significant after Holm's correction. Open: not. Without a bar: no interval."),
      forest),
    patients.section,
    card("All numbers",
      el("div", { class: "controls" }, select("Quantities", [...levels, ["all", "All"]], (level) => set("level", level), state.level)),
      quantityTable()),
    record.goals.length ? card("Goals", goalTable()) : null,
    card(page.models.title, modelTable()),
    card("Methods", el("ul", {}, page.methods.map((sentence) => el("li", {}, sentence)))),
  ].flat().filter(Boolean));
  drawForest(forest);
  patients.draw();
}

const caseInHash = () => {
  try {
    const name = decodeURIComponent(/^#case=(.+)$/.exec(location.hash)?.[1] ?? "");
    return page.cases.includes(name) ? name : null;
  } catch { return null; }
};

function showView() {
  const name = caseInHash();
  byId("content").hidden = name !== null;
  byId("case").hidden = byId("back").hidden = name === null;
  byId("problem").hidden = true;
  document.title = name === null ? page.title : `${name}: ${page.title}`;
  if (name === null) {
    render();
    return;
  }
  scrollTo(0, 0);
  showCase(name, state.candidate, (model) => { state.candidate = model; showView(); }).catch(showProblem);
}

const THEMES = ["system", "light", "dark"];
let theme = "system";
function setTheme(name) {
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
}
const redraw = () => { if (caseInHash() === null) render(); else redrawCase(); };

function nextTheme() {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  setTheme(theme);
  byId("theme").textContent = `Theme: ${theme}`;
  redraw();
}

// On paper charts are as wide as the page, and dark on white.
function printing(begins) {
  document.documentElement.classList.toggle("printing", begins);
  setTheme(begins ? "light" : theme);
  redraw();
}

function start() {
  byId("title").textContent = page.title;
  byId("theme").addEventListener("click", nextTheme);
  byId("back").addEventListener("click", () => { location.hash = ""; });
  addEventListener("hashchange", showView);
  addEventListener("beforeprint", () => printing(true));
  addEventListener("afterprint", () => printing(false));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  byId("footer").textContent = Object.entries(record.models).map(([name, path]) => `${name}: ${path}`).join(" \u00b7 ");
  showView();
}

try {
  start();
} catch (error) {
  showProblem(error);
}
