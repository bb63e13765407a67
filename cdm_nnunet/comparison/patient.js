// One patient: the reference, both models and a difference side by side, with linked slices, cursor and DVH curves.

const baseline = record.baseline;
const models = Object.keys(record.models);
const candidates = models.slice(1);
const caseLink = (name) => `#case=${encodeURIComponent(name)}`;
const openCase = (name) => { location.hash = caseLink(name); };
const drawing = { // of all four pictures
  map: Object.keys(page.wash ?? {})[0], window: "soft", range: WINDOWS.soft.slice(1), wash: true, opacity: 0.5, contours: true,
  isodoses: new Set([95, 50]), span: 5, zoom: 1, focus: null, lit: null, hidden: new Set(), between: null,
};
const shownView = { name: VIEWS[0].name };

// The errors of each patient; in a folder they are in a separate file.
let loadingErrors = null;
let errorsReady = !files;
const loadErrors = () => (loadingErrors ??= errorsReady ? Promise.resolve() : unpacked("errors").then((buffer) => {
  JSON.parse(new TextDecoder().decode(buffer)).forEach((patients, k) => { record.quantities[k].patients = patients; });
  errorsReady = true;
}));

// A viewer of one dose. Viewers of a group share a crosshair and are redrawn together.
class LinkedViewer extends Viewer {
  constructor(settings, group, onLook) {
    super(settings, onLook);
    this.group = group;
    group.push(this);
  }

  draw() {
    for (const viewer of this.group ?? []) {
      viewer.cross = this.cross;
      viewer.drawAlone();
    }
  }

  drawAlone() { super.draw(); }

  showOnly(view) {
    this.enlarged = view;
    for (const part of this.parts) {
      part.figure.hidden = part.view !== view;
      part.enlarge.hidden = true;
    }
  }
}

// Pictures side by side: name in the data, title.
const shownDoses = (candidate) => [
  ["reference", "reference"], [page.dose_names[baseline], baseline], [page.dose_names[candidate], candidate],
];

function differencesOf(candidate) {
  const [reference, one, two] = shownDoses(candidate);
  return [[two, one], [one, reference], [two, reference]].map(([a, b]) => ({ between: [a[0], b[0]], title: `${a[1]} ${MINUS} ${b[1]}` }));
}

function readoutOf(volume, candidate, [z, y, x]) {
  const i = z * volume.steps[0] + y * volume.steps[1] + x;
  const dose = (name) => volume[name][i] * volume.dose_step_gy;
  const item = (name, text) => el("span", {}, `${name} `, el("b", {}, text));
  const mm = [x, y, z].map((index, k) => fixed(volume.origin_mm[2 - k] + index * volume.spacing_mm[2 - k], 1));
  const [minuend, subtrahend] = drawing.between;
  const { title } = differencesOf(candidate).find(({ between }) => between.join() === drawing.between.join());
  return [
    ...shownDoses(candidate).map(([name, of]) => item(of, `${fixed(dose(name), 1)} Gy`)),
    item(title, `${signed(dose(minuend) - dose(subtrahend), 1)} Gy`),
    item("CT", `${fixed(page.hu_table[volume.ct[i]], 0)} HU`), item("x, y, z", `${mm.join(", ")} mm`),
    item("in", volume.rois.filter((_, k) => inMask(volume.masks[k], i)).join(", ") || "no ROI"),
  ];
}

function comparedSlices(data, candidate) {
  const [group, readout] = [[], el("div", { class: "readout", "aria-live": "polite" })];
  const differences = differencesOf(candidate);
  drawing.between = differences[0].between;
  let volume = null;
  const onLook = (voxel) => { if (volume) readout.replaceChildren(...readoutOf(volume, candidate, voxel)); };
  const viewerOf = (mode) => new LinkedViewer(new Proxy(drawing, { get: (all, key) => (key === "mode" ? mode : all[key]) }), group, onLook);
  const title = el("h3", {}, differences[0].title);
  const columns = [...shownDoses(candidate), ["difference", null]].map(([mode, text]) => (
    el("div", { class: "column" }, text === null ? title : el("h3", {}, text), viewerOf(mode).node)));
  const redraw = () => { group[0].draw(); if (volume) onLook(group[0].cross); };
  const setView = (name) => {
    shownView.name = name;
    for (const viewer of group) viewer.showOnly(VIEWS.find((view) => view.name === name));
    redraw();
  };
  const choose = (index) => { drawing.between = differences[index].between; title.textContent = differences[index].title; redraw(); };
  const gy = (percent) => fixed((percent / 100) * data.volume.prescription_gy, 1);
  const isodoses = [...drawing.isodoses].map((percent) => `${percent} % (${gy(percent)} Gy)`).join(", ");
  const change = (key) => (value) => { drawing[key] = value; redraw(); };
  const box = (label, key) => { const input = el("input", { type: "checkbox", checked: drawing[key], onchange: () => change(key)(input.checked) }); return el("label", {}, input, label); };
  const button = (text, onclick) => el("button", { type: "button", onclick: () => { if (volume) onclick(group[0]); } }, text);
  const where = el("select", { "aria-label": "Where to look for the largest difference" }, el("option", { value: "" }, "the whole dose"), data.volume.rois.map((roi) => el("option", { value: roi }, roi)));
  const windows = Object.entries(WINDOWS).map(([key, [text, low, high]]) => [key, `${text} (${low} to ${high} HU)`.replaceAll("-", MINUS)]);
  const setWindow = (key) => { drawing.window = key; change("range")(WINDOWS[key].slice(1)); };
  const thinned = data.volume.stride.some((step) => step > 1) ? ` To save space, every ${data.volume.stride.join(", ")}. voxel along z, y, x is shown.` : "";
  const section = card("Slices",
    el("div", { class: "controls" },
      select("View", VIEWS.map(({ name }) => [name, name]), setView, shownView.name),
      select("Difference", differences.map((one, k) => [String(k), one.title]), (k) => choose(Number(k)), "0"),
      select("Scale", [1, 2, 5, 10, 20].map((span) => [String(span), `\u00b1${span} Gy`]), (span) => change("span")(Number(span)), String(drawing.span)),
      select("Colours", Object.keys(page.wash).map((name) => [name, name]), change("map"), drawing.map),
      select("CT window", windows, setWindow, drawing.window),
      box("dose wash", "wash"), box("contours", "contours")),
    el("div", { class: "controls" }, button("Magnify", (viewer) => viewer.zoomBy(1.5)), button("Reduce", (viewer) => viewer.zoomBy(1 / 1.5)), button("Whole slice", (viewer) => viewer.zoomBy(0)),
      button("Jump to the largest difference", (viewer) => viewer.toLargestDifference(where.value)), el("label", {}, "in", where)),
    readout, el("div", { class: "columns" }, columns),
    el("p", { class: "screen-only" }, el("small", {}, `Mouse wheel or slider: slice; click or drag: crosshair; Ctrl and wheel, or + and ${MINUS}: zoom; Shift and drag: pan; right button and drag: CT window; arrow keys and Page Up/Down on a focused slice: in all pictures together.`)),
    el("p", {}, el("small", {}, `Isodoses: ${isodoses}; in the difference the dose that is subtracted is solid. Dose is shown from ${gy(100 * WASH_FROM)} Gy on, rounded to ${data.volume.dose_step_gy.toFixed(2)} Gy. Red: the first of the two doses is hotter.${thinned} Research use, not for treatment.`)));
  for (const viewer of group) viewer.showOnly(VIEWS.find((view) => view.name === shownView.name));
  return { section, redraw, show: (loaded) => { volume = loaded; for (const viewer of group) viewer.show(loaded); } };
}

function comparedCurves(data, candidate, onToggle) {
  const chart = el("div", { class: "chart dvh", role: "img", "aria-label": "DVH curves of the reference and both models" });
  const doses = shownDoses(candidate);
  const highest = 1.02 * Math.max(1, ...Object.values(data.curves).flatMap((of) => doses.map(([dose]) => of[dose][0].at(-1))));
  const draw = () => plotly().then((Plotly) => Plotly.react(chart, dvhTraces(data.curves, drawing.hidden, doses), chartLayout({
    hovermode: "closest", xaxis: { title: { text: "Dose (Gy)" }, range: [0, highest] }, yaxis: { title: { text: "Volume (% of the ROI)" }, range: [0, 102] },
  }), CHART_CONFIG)).catch(showProblem);
  const stroke = (dose) => svg("svg", { width: 46, height: 8, "aria-hidden": "true" },
    svg("path", { d: "M1 4H45", stroke: "currentColor", "stroke-width": 2, "stroke-dasharray": (page.strokes[dose] ?? []).join(" ") || "none" }));
  const toggle = (roi, shown) => { drawing.hidden[shown ? "delete" : "add"](roi); draw(); onToggle(); };
  const boxes = Object.keys(data.curves).map((roi) => {
    const input = el("input", { type: "checkbox", checked: !drawing.hidden.has(roi), onchange: () => toggle(roi, input.checked) });
    return el("label", {}, input, el("span", { class: "swatch", style: `border-color:${roiColour(roi)}` }), roi);
  });
  const section = card("DVH curves",
    el("div", { class: "controls legend" }, doses.map(([dose, title]) => el("span", {}, stroke(dose), ` ${title}`))), chart,
    el("div", { class: "controls legend" }, boxes),
    el("p", {}, el("small", {}, `Drawn with at most ${page.max_points} points a curve, at most ${fixed(data.max_error_percent, 2)} % of the volume from the exact one. An ROI that is hidden here is hidden in the slices.`)));
  return { section, draw };
}

function errorsOfPatient(patient, candidate) {
  const rows = record.quantities.filter((quantity) => quantity.patients[patient]).map((quantity) => (
    { name: quantity.name, unit: quantity.unit, level: quantity.level, errors: quantity.patients[patient].errors }));
  const change = (row) => row.errors[candidate] - row.errors[baseline];
  const number = (label, value, show) => ({ label, number: true, value, show: (row) => show(value(row), 3) });
  return table([
    { label: "Quantity", header: true, value: (row) => row.name, show: (row) => row.name },
    { label: "Unit", show: (row) => row.unit },
    number(baseline, (row) => row.errors[baseline], fixed), number(candidate, (row) => row.errors[candidate], fixed),
    number("Difference", change, signed),
  ], rows.filter((row) => row.level !== "pooled"), { caption: "Absolute errors of this patient; a negative difference is better" });
}

let redrawCase = () => {};
let opening = 0; // an opening that is overtaken by another ends silently
async function showCase(name, candidate, choose) {
  const own = (opening += 1);
  const place = page.cases.indexOf(name);
  const to = (step) => () => openCase(page.cases[place + step]);
  const head = el("div", {}, el("h1", {}, name), record.cases[name] === name ? null : el("p", { class: "muted" }, `Patient ${record.cases[name]}`),
    el("div", { class: "controls" },
      el("button", { type: "button", disabled: place === 0, onclick: to(-1) }, "Previous"),
      el("button", { type: "button", disabled: place === page.cases.length - 1, onclick: to(1) }, "Next"),
      candidates.length > 1 ? select("Model", candidates.map((model) => [model, model]), choose, candidate) : null));
  byId("case").replaceChildren(head, el("p", { role: "status" }, "Opening\u2026"));
  await loadErrors();
  const data = page.no_images ? { problem: page.no_images } : JSON.parse(await part(`case-${place}`));
  if (own !== opening) return;
  const errors = card("Errors", errorsOfPatient(record.cases[name], candidate));
  if (data.problem) {
    byId("case").replaceChildren(head, el("p", { class: "notice", id: "no-images" }, `No slices and DVH curves: ${data.problem}.`), errors);
    return;
  }
  const slices = comparedSlices(data, candidate);
  const curves = comparedCurves(data, candidate, slices.redraw);
  byId("case").replaceChildren(head, slices.section, curves.section, errors);
  curves.draw();
  const volume = await loadVolume(place, data.volume);
  if (own !== opening) return;
  slices.show(volume);
  redrawCase = () => { slices.redraw(); curves.draw(); };
}
