// One patient: goals, DVH curves, slices, and its panels.

const hidden = new Set(); // ROI names, for curves and contours of all cases
const settings = {
  mode: "reference", window: "soft", wash: true, opacity: 0.5, contours: true, isodoses: new Set([95, 50]), span: 5, hidden,
};
const readings = { dose: null };
const caseLink = (name) => `#case=${encodeURIComponent(name)}`;
const openCase = (name) => { location.hash = caseLink(name); };

function remarks(goal, roi, metric) {
  const reference = goal.reference === "fail";
  return [
    goal.agree === false ? "prediction changes the verdict" : null,
    goal.reason,
    goal.is_converted ? "limit converted to the fractionation of the case" : null,
    reference && goal.predicted === "fail" ? "reference fails too" : null,
    reference && ["pass", "acceptable"].includes(goal.predicted) ? "reference fails" : null,
    goal.within_mask_error ? `limit within the mask error (${withUnit(metric.mask_error, metric.unit)})` : null,
    ...roiFlags(roi, goal.reason),
  ].filter(Boolean).join("; ");
}

// What is unusual about an ROI, but for what a reason beside it says already.
function roiFlags(roi, reason = null) {
  return [
    roi.matched_by && roi.matched_by !== "name" ? `in the data set: ${roi.source} (${roi.matched_by})` : null,
    roi.few_voxels ? `few voxels (${roi.n_voxels})` : null,
    roi.cut_by_grid ? "cut by the dose grid" : null,
    roi.outside_region_percent > 0 && !reason?.includes("outside the dose region") ? `${fixed(roi.outside_region_percent, 1)} % outside the dose region` : null,
  ].filter(Boolean);
}

function goalTable(name) {
  const rows = Object.entries(record.cases[name].rois).flatMap(([roi, entry]) => entry.goals.map((goal) => (
    { roi, entry, goal, metric: entry.metrics[goal.metric] })));
  if (!rows.length) return el("p", {}, "No goal of the template has a limit for the ROIs of this case.");
  const judged = (r, dose) => [withUnit(r.metric[dose], r.metric.unit, digitsFor(r.metric.unit)), " ", chip(r.goal[dose]), dose === "predicted" && r.metric.interval ? el("div", { class: "muted" }, intervalText(r.metric)) : null];
  const certain = rows.some((r) => r.goal.certainty);
  const changed = (r) => r.goal.agree === false;
  return table([
    { label: "Goal", value: (r) => `${r.roi} ${r.goal.metric}`, show: (r) => `${r.roi} ${r.goal.metric}`, header: true },
    { label: "Limit", show: (r) => limitText(r.goal, new Set([r.goal.limit])) },
    { label: "Reference", value: (r) => r.goal.reference, show: (r) => judged(r, "reference"), number: true },
    { label: "Predicted", value: (r) => r.goal.predicted, show: (r) => judged(r, "predicted"), number: true },
    { label: "Difference", value: (r) => Math.abs(r.metric.predicted - r.metric.reference), show: (r) => signed(r.metric.predicted - r.metric.reference, digitsFor(r.metric.unit)), number: true },
    { label: "Priority", value: (r) => r.goal.priority, show: (r) => String(r.goal.priority), number: true },
    ...(certain ? [{ label: "By interval", note: "the verdict that both ends of the interval get", value: (r) => r.goal.certainty, show: (r) => chip(r.goal.certainty) }] : []),
    { label: "Remarks", value: (r) => (changed(r) ? 0 : 1), show: (r) => remarks(r.goal, r.entry, r.metric), wrap: true },
  ], rows, { sortBy: 5, rowClass: (r) => (changed(r) ? "changed" : null), caption: "Goals with a limit; shaded where the prediction changes the verdict" });
}

const intervalText = (metric) => (metric.interval ? ` [${fixed(metric.interval[0], 2)}, ${fixed(metric.interval[1], 2)}]` : "");

function missingText(name) {
  const entries = Object.entries(missingOf(name));
  const listed = (title, items) => (items.length ? [`${title}: ${items.map(([what, reason]) => `${what} (${reason})`).join(", ")}.`] : []);
  const notes = record.cases[name].notes.map((note) => `${note[0].toUpperCase()}${note.slice(1)}.`);
  return [...listed("Absent", entries), ...listed("Not defined", Object.entries(undefinedOf(name))), ...notes].join(" ");
}

function patientHead(name) {
  const position = caseNames.indexOf(name);
  const to = (step) => () => openCase(caseNames[position + step]);
  const s = page.case_scores[name];
  return el("div", {},
    el("h1", {}, name),
    el("div", { class: "controls" },
      select("Case", caseNames.map((n) => [n, `${n} (MAE ${fixed(record.cases[n].dose_mae_gy, 2)} Gy)`]), openCase, name),
      el("button", { type: "button", disabled: position === 0, onclick: to(-1) }, "Previous"),
      el("button", { type: "button", disabled: position === caseNames.length - 1, onclick: to(1) }, "Next"),
      el("span", {}, `Dose MAE ${withUnit(record.cases[name].dose_mae_gy, "Gy")}, PTV score ${fixed(s.ptv_score, 2)}, OAR score ${fixed(s.oar_score, 2)}`)),
    el("p", { class: "muted" }, missingText(name)));
}

const highestOf = (curves) => 1.02 * Math.max(1, ...Object.values(curves).flatMap((both) => [both.reference[0].at(-1), both.predicted[0].at(-1)]));

// An ROI in a legend, marked where dose is missing in a part of it.
function roiLabel(name, roi) {
  const percent = record.cases[name].rois[roi]?.outside_region_percent;
  return percent > 0 && record.dose_region ? `${roi} (${fixed(percent, 1)} % outside the dose region)` : roi;
}

function dvhSection(name, data, viewer) {
  const { curves } = data;
  const highest = highestOf(curves);
  readings.dose = Math.min(readings.dose ?? Math.round(0.95 * data.volume.prescription_gy * 10) / 10, highest);
  const chart = el("div", { class: "chart dvh", role: "img", "aria-label": "DVH curves, reference solid, predicted dashed; the table beside it reads them at a dose" });
  const body = el("tbody");
  const slider = el("input", { type: "range", min: "0", max: highest.toFixed(1), step: "0.1", "aria-label": "Dose at which the curves are read, Gy", style: "flex:1", oninput: () => read(Number(slider.value)) });
  const label = el("output", {});
  const draw = () => drawDvh(chart, curves, hidden, readings.dose, highest);
  const cells = new Map();
  for (const roi of Object.keys(curves)) {
    const box = el("input", { type: "checkbox", checked: !hidden.has(roi), onchange: () => { toggle([roi], box.checked); } });
    const row = { box, reference: el("td", { class: "number" }), predicted: el("td", { class: "number" }), difference: el("td", { class: "number" }) };
    cells.set(roi, row);
    const swatch = el("span", { class: "swatch", style: `border-color:${roiColour(roi)}` });
    const line = el("tr", {}, el("th", { scope: "row" }, el("label", {}, box, swatch, roiLabel(name, roi))), row.reference, row.predicted, row.difference);
    line.addEventListener("pointerenter", () => emphasise(roi));
    line.addEventListener("pointerleave", () => emphasise(null));
    body.append(line);
  }
  function emphasise(roi) {
    if (!chart.data) return;
    window.Plotly.restyle(chart, { opacity: chart.data.map((trace) => (roi === null || trace.meta.roi === roi ? 1 : 0.2)) });
  }
  function toggle(rois, shown) {
    for (const roi of rois) {
      if (shown) hidden.delete(roi);
      else hidden.add(roi);
      cells.get(roi).box.checked = shown;
    }
    draw().catch(showProblem);
    viewer.draw();
  }
  function read(dose) {
    readings.dose = dose;
    slider.value = String(dose);
    label.textContent = `${fixed(dose, 1)} Gy`;
    for (const [roi, row] of cells) {
      const [r, p] = ["reference", "predicted"].map((key) => volumeAt(curves[roi][key], dose));
      row.reference.textContent = fixed(r, 1);
      row.predicted.textContent = fixed(p, 1);
      row.difference.textContent = signed(p - r, 1);
    }
    if (chart.data) window.Plotly.relayout(chart, { shapes: [doseMark(dose)] });
  }
  const targets = Object.keys(curves).filter((roi) => page.targets.includes(roi));
  const all = Object.keys(curves);
  const button = (text, shown) => el("button", { type: "button", onclick: () => { toggle(all, false); toggle(shown, true); } }, text);
  read(readings.dose);
  draw().then(() => chart.on("plotly_click", (event) => read(Math.min(highest, Math.max(0, event.points[0].x))))).catch(showProblem);
  const section = card("DVH curves",
    el("div", { class: "two" },
      el("div", {}, el("p", {}, el("span", { class: "swatch" }), "reference  ", el("span", { class: "swatch dashed" }), "predicted; a click on a curve reads all at its dose."), chart),
      el("div", {},
        el("div", { class: "controls" }, button("All", all), button("Targets", targets), button("None", [])),
        el("div", { class: "controls" }, "Volume (%) at ", label, slider),
        el("div", { class: "scroll" }, el("table", { class: "roi-list" },
          el("thead", {}, el("tr", {}, ["Show", "Reference", "Predicted", "Difference"].map((t, k) => el("th", { scope: "col", class: k ? "number" : null }, t)))), body)),
        el("p", {}, el("small", {}, `Drawn with at most ${page.max_points} points a curve, at most ${fixed(data.max_error_percent, 2)} % of the volume from the exact one. Metrics are never read from it. An ROI that is hidden here is hidden in the slices.`)))));
  return { section, draw };
}

function checkbox(label, checked, onchange) {
  const box = el("input", { type: "checkbox", checked, onchange: () => onchange(box.checked) });
  return el("label", {}, box, label);
}

function viewerSection(data) {
  const readout = el("div", { class: "readout", "aria-live": "polite" });
  let volume = null;
  const viewer = new Viewer(settings, (voxel) => look(voxel));
  const legend = el("div", { class: "controls" });
  const bar = el("div", { class: "colourbar" });
  const header = data.volume;
  function look([z, y, x]) {
    const i = z * volume.steps[0] + y * volume.steps[1] + x;
    const [reference, predicted] = [volume.reference[i] * volume.dose_step_gy, volume.predicted[i] * volume.dose_step_gy];
    const rois = volume.rois.filter((_, k) => inMask(volume.masks[k], i));
    const mm = [x, y, z].map((index, k) => fixed(volume.origin_mm[2 - k] + index * volume.spacing_mm[2 - k], 1));
    const item = (name, text) => el("span", {}, `${name} `, el("b", {}, text));
    readout.replaceChildren(
      item("reference", `${fixed(reference, 1)} Gy`), item("predicted", `${fixed(predicted, 1)} Gy`), item("difference", `${signed(predicted - reference, 1)} Gy`),
      item("CT", `${fixed(page.hu_table[volume.ct[i]], 0)} HU`), item("x, y, z", `${mm.join(", ")} mm`), item("in", rois.join(", ") || "no ROI"));
  }
  function restyle() {
    const difference = settings.mode === "difference";
    const colours = difference ? page.difference : page.wash;
    const stops = Array.from({ length: 17 }, (_, k) => `rgb(${colours.slice(3 * Math.min(255, 16 * k), 3 * Math.min(255, 16 * k) + 3)})`);
    const highest = volume ? washHighest(volume) : 1.1 * header.prescription_gy;
    const gradient = el("i", { style: `background:linear-gradient(90deg,${stops.join(",")})` });
    bar.replaceChildren(...(difference
      ? [`${fixed(-settings.span, 0)} Gy (predicted colder)`, gradient, `+${settings.span} Gy (hotter)`]
      : ["0", gradient, `${fixed(highest, 1)} Gy; shown from ${fixed(WASH_FROM * header.prescription_gy, 1)} Gy`]));
    viewer.draw();
  }
  const change = (key) => (value) => { settings[key] = value; restyle(); };
  const modes = ["reference", "predicted", "difference"].map((mode) => {
    const radio = el("input", { type: "radio", name: "mode", value: mode, checked: settings.mode === mode, onchange: () => change("mode")(mode) });
    return el("label", {}, radio, mode);
  });
  legend.append(el("strong", {}, "Isodoses"), ...ISODOSES.map(([percent, colour]) => {
    const toggle = checkbox("", settings.isodoses.has(percent), (on) => { if (on) settings.isodoses.add(percent); else settings.isodoses.delete(percent); viewer.draw(); });
    toggle.append(el("span", { class: "swatch", style: `border-color:${colour};background:#000;outline:1px solid #000` }), `${percent} % (${fixed((percent / 100) * header.prescription_gy, 1)} Gy)`);
    return toggle;
  }));
  const opacity = el("input", { type: "range", min: "0.1", max: "1", step: "0.05", value: String(settings.opacity), oninput: () => change("opacity")(Number(opacity.value)) });
  const thinned = header.stride.some((step) => step > 1) ? ` To save space, every ${header.stride.join(", ")}. voxel along z, y, x is shown.` : "";
  const section = card("Slices",
    el("div", { class: "controls" },
      el("fieldset", {}, el("legend", {}, "Dose"), modes),
      checkbox("dose wash", settings.wash, change("wash")), el("label", {}, "opacity", opacity),
      checkbox("contours", settings.contours, change("contours")),
      select("CT window", Object.entries(WINDOWS).map(([key, [text, low, high]]) => [key, `${text} (${low} to ${high} HU)`.replaceAll("-", MINUS)]), change("window"), settings.window),
      select("Difference scale", [1, 2, 5, 10, 20].map((gy) => [String(gy), `\u00b1${gy} Gy`]), (gy) => change("span")(Number(gy)), String(settings.span))),
    legend, bar, readout, viewer.node,
    el("p", {}, el("small", {}, `Mouse wheel or slider: slice; click or drag: crosshair; arrow keys and Page Up/Down on a focused slice. In the difference, isodoses of the reference are solid, of the prediction dashed. Percentages are of ${plain(header.prescription_gy)} Gy. Displayed doses are rounded to ${header.dose_step_gy.toFixed(2)} Gy; HU to 2 HU in soft tissue, to 9 HU in air, 18 HU in bone.${thinned} Numbers in tables are not taken from these pictures. Research use, not for treatment.`)));
  return { section, viewer, show: (loaded) => { volume = loaded; viewer.show(loaded); restyle(); } };
}

const noPictures = ({ problem }) => `No DVH curves and no slices: ${problem}`;

const loaded = { name: null, data: null, volume: null };
let redrawPatient = () => {};
let opening = 0; // an opening that another has overtaken ends in silence

async function buildPatient(name) {
  const position = caseNames.indexOf(name);
  const container = byId("patient");
  const own = (opening += 1);
  container.replaceChildren(patientHead(name), el("p", { role: "status" }, "Opening\u2026"));
  const data = JSON.parse(await part(`case-${position}`));
  if (own !== opening) return;
  const slices = data.problem ? null : viewerSection(data);
  const pictures = data.problem ? [el("p", { class: "problem" }, noPictures(data))]
    : [dvhSection(name, data, slices.viewer).section, slices.section];
  const built = buildPanels("patient", name);
  container.replaceChildren(patientHead(name), card("Goals", goalTable(name)), ...pictures, ...built.map(({ section }) => section));
  const volume = data.problem ? null : await loadVolume(position, data.volume);
  if (own !== opening) return;
  slices?.show(volume);
  Object.assign(loaded, { name, data, volume });
  redrawPatient = () => buildPatient(name).catch(showProblem);
}
