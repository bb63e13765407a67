// DVH curves and slices of a patient.

const hidden = new Set(); // ROI names, for curves and contours of all cases
const settings = {
  mode: page.doses[0], map: Object.keys(page.wash)[0], window: "soft", wash: true, opacity: 0.5, contours: true, isodoses: new Set([95, 50]), span: page.span_gy ?? 5, range: WINDOWS.soft.slice(1), zoom: 1, focus: null, lit: null, hidden,
};
const readings = { dose: null };

// The ROI highlighted in goals, curves and contours: that of a row or curve under the pointer.
const lit = { roi: null, show: () => {} };
function light(roi, from = null) {
  if (lit.roi === roi) return;
  lit.roi = settings.lit = roi;
  for (const node of document.querySelectorAll("[data-roi]")) node.classList.toggle("lit", node.dataset.roi === roi);
  lit.show(roi, from);
}
for (const event of ["pointerover", "focusin"]) {
  document.addEventListener(event, ({ target }) => {
    if (!target.closest?.(".dvh, .views")) light(target.closest?.("[data-roi]")?.dataset.roi ?? null);
  });
}

const highestOf = (curves) => 1.02 * Math.max(1, ...Object.values(curves).flatMap((both) => page.doses.map((dose) => both[dose][0].at(-1))));

// An ROI in a legend, marked if dose is missing in a part of it. rois: those of the record.
function roiLabel(rois, roi) {
  const percent = rois[roi]?.outside_region_percent;
  return percent > 0 ? `${roi} (${fixed(percent, 1)} % outside the dose region)` : roi;
}

function dvhSection(rois, data, viewer) {
  const { curves } = data;
  const highest = highestOf(curves);
  readings.dose = Math.min(readings.dose ?? Math.round(0.95 * data.volume.prescription_gy * 10) / 10, highest);
  const chart = el("div", { class: "chart dvh", role: "img", "aria-label": `DVH curves${isAlone ? " of the predicted dose" : ", reference solid, predicted dashed"}; the table beside it reads them at a dose` });
  const body = el("tbody");
  const slider = el("input", { type: "range", min: "0", max: highest.toFixed(1), step: "0.1", "aria-label": "Dose at which the curves are read, Gy", style: "flex:1", oninput: () => read(Number(slider.value)) });
  const label = el("output", {});
  const draw = () => drawDvh(chart, rois, curves, hidden, readings.dose, highest);
  const cells = new Map();
  for (const roi of Object.keys(curves)) {
    const box = el("input", { type: "checkbox", checked: !hidden.has(roi), onchange: () => { toggle([roi], box.checked); } });
    const row = { box, ...Object.fromEntries(MODES.map((mode) => [mode, el("td", { class: "number" })])) };
    cells.set(roi, row);
    const swatch = el("span", { class: "swatch", style: `border-color:${roiColour(roi)}` });
    const line = el("tr", { "data-roi": roi }, el("th", { scope: "row" }, el("label", {}, box, swatch, roiLabel(rois, roi))), MODES.map((mode) => row[mode]));
    body.append(line);
  }
  const roiOf = (trace) => trace.meta.roi ?? trace.meta.goalsOf;
  lit.show = (roi, from) => {
    if (chart.data && from !== chart) window.Plotly.restyle(chart, { opacity: chart.data.map((trace) => (roi === null || roiOf(trace) === roi ? 1 : 0.2)) });
    viewer.draw();
  };
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
      const volumes = page.doses.map((key) => volumeAt(curves[roi][key], dose));
      page.doses.forEach((key, k) => { row[key].textContent = fixed(volumes[k], 1); });
      if (!isAlone) row.difference.textContent = signed(volumes[1] - volumes[0], 1);
    }
    if (chart.data) window.Plotly.relayout(chart, { shapes: [doseMark(dose)] });
  }
  const targets = Object.keys(curves).filter((roi) => page.targets.includes(roi));
  const all = Object.keys(curves);
  const button = (text, shown) => el("button", { type: "button", onclick: () => { toggle(all, false); toggle(shown, true); } }, text);
  read(readings.dose);
  draw().then(() => {
    chart.on("plotly_click", (event) => read(Math.min(highest, Math.max(0, event.points[0].x))));
    chart.on("plotly_hover", (event) => light(roiOf(event.points[0].data), chart));
    chart.on("plotly_unhover", () => light(null, chart));
  }).catch(showProblem);
  const section = card("DVH curves",
    el("div", { class: "two" },
      el("div", {}, el("p", {}, isAlone ? "Predicted dose; " : [el("span", { class: "swatch" }), "reference  ", el("span", { class: "swatch dashed" }), "predicted; "], "a click on a curve reads all at its dose. Triangles are limits of goals and point to the side that is wanted, filled where the prediction misses it; of a mean dose on the axis."), chart),
      el("div", {},
        el("div", { class: "controls" }, button("All", all), button("Targets", targets), button("None", [])),
        el("div", { class: "controls" }, "Volume (%) at ", label, slider),
        el("div", { class: "scroll" }, el("table", { class: "roi-list" },
          el("thead", {}, el("tr", {}, ["Show", ...MODES.map((mode) => mode[0].toUpperCase() + mode.slice(1))].map((t, k) => el("th", { scope: "col", class: k ? "number" : null }, t)))), body)),
        el("p", {}, el("small", {}, `Drawn with at most ${page.max_points} points a curve, at most ${fixed(data.max_error_percent, 2)} % of the volume from the exact one. Metrics are never read from it. An ROI that is hidden here is hidden in the slices.`)))));
  return { section, draw };
}

function checkbox(label, checked, onchange) {
  const box = el("input", { type: "checkbox", checked, onchange: () => onchange(box.checked) });
  return el("label", {}, box, label);
}

// Both doses along a line through the crosshair.
const AXES = { x: ["left to right of the picture (x)", 2], y: ["front to back (y)", 1], z: ["feet to head (z)", 0] };
function profileSection() {
  let [key, last] = ["x", null];
  const picture = el("div", { class: "profile" });
  const draw = (volume, cross) => {
    if (!volume || !node.open) { last = [volume, cross]; return; }
    last = [volume, cross];
    picture.replaceChildren(profilePicture(volume, cross, AXES[key][1], key));
  };
  const choice = select("Line", Object.entries(AXES).map(([name, [text]]) => [name, text]), (name) => { key = name; draw(...last); }, key);
  const node = el("details", { ontoggle: () => { if (last) draw(...last); } }, el("summary", {}, "Dose along a line through the crosshair"), el("div", { class: "controls" }, choice), picture);
  return { node, draw };
}

function profilePicture(volume, cross, axis, name) {
  const n = volume.shape[axis];
  const start = cross.reduce((sum, index, k) => sum + (k === axis ? 0 : index * volume.steps[k]), 0);
  const dosesGy = page.doses.map((dose) => Array.from({ length: n }, (_, k) => volume[dose][start + k * volume.steps[axis]] * volume.dose_step_gy));
  const highest = 1.05 * Math.max(volume.prescription_gy, ...dosesGy.flat());
  const mm = (k) => volume.origin_mm[axis] + k * volume.spacing_mm[axis];
  const [width, height, left, bottom] = [900, 240, 46, 34];
  const x = (k) => left + (k / Math.max(1, n - 1)) * (width - left - 10);
  const y = (dose) => 8 + (1 - dose / highest) * (height - 8 - bottom);
  const ink = { fill: "currentColor", "font-size": 12 };
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Dose along ${name} through the crosshair` });
  const step = highest > 50 ? 20 : highest > 20 ? 10 : 5;
  for (let dose = 0; dose <= highest; dose += step) {
    picture.append(svg("path", { d: `M${left} ${y(dose)}H${width - 10}`, stroke: "currentColor", opacity: 0.2 }), svg("text", { ...ink, x: left - 6, y: y(dose) + 4, "text-anchor": "end" }, String(dose)));
  }
  for (let k = 0; k < n; k += Math.max(1, Math.round(n / 8))) picture.append(svg("text", { ...ink, x: x(k), y: height - bottom + 16, "text-anchor": "middle" }, fixed(mm(k), 0)));
  picture.append(svg("text", { ...ink, x: width / 2, y: height - 3, "text-anchor": "middle" }, `${name} (mm); dose in Gy`),
    svg("path", { d: `M${x(cross[axis])} 8V${height - bottom}`, stroke: "currentColor", opacity: 0.5, "stroke-dasharray": "3 3" }));
  page.doses.forEach((dose, d) => picture.append(svg("path", { d: `M${dosesGy[d].map((gy, k) => `${x(k).toFixed(1)} ${y(gy).toFixed(1)}`).join("L")}`, fill: "none", stroke: "currentColor", "stroke-width": 2, "stroke-dasharray": page.strokes[dose].join(" ") || "none", class: dose })));
  return picture;
}

function viewerSection(data) {
  const readout = el("div", { class: "readout", "aria-live": "polite" });
  let volume = null;
  const viewer = new Viewer(settings, (voxel) => look(voxel));
  const legend = el("div", { class: "controls" });
  const bar = el("div", { class: "colourbar" });
  const header = data.volume;
  const windowed = el("span", { class: "muted" });
  viewer.onWindow = (level, width) => { windowed.textContent = `level ${fixed(level, 0)}, width ${fixed(width, 0)} HU`; };
  const where = el("select", { "aria-label": "Where to look for the largest difference" }, el("option", { value: "" }, "the whole dose"), header.rois.map((roi) => el("option", { value: roi }, roi)));
  const button = (text, onclick) => el("button", { type: "button", onclick }, text);
  const profile = profileSection();
  function look([z, y, x]) {
    profile.draw(volume, viewer.cross);
    const i = z * volume.steps[0] + y * volume.steps[1] + x;
    const doses = page.doses.map((dose) => volume[dose][i] * volume.dose_step_gy);
    const rois = volume.rois.filter((_, k) => inMask(volume.masks[k], i));
    const mm = [x, y, z].map((index, k) => fixed(volume.origin_mm[2 - k] + index * volume.spacing_mm[2 - k], 1));
    const item = (name, text) => el("span", {}, `${name} `, el("b", {}, text));
    readout.replaceChildren(
      ...page.doses.map((dose, k) => item(dose, `${fixed(doses[k], 1)} Gy`)), ...(isAlone ? [] : [item("difference", `${signed(doses[1] - doses[0], 1)} Gy`)]),
      item("CT", `${fixed(page.hu_table[volume.ct[i]], 0)} HU`), item("x, y, z", `${mm.join(", ")} mm`), item("in", rois.join(", ") || "no ROI"),
      ...(settings.mode === "gamma" ? [item("gamma", inMask(volume.failed, i) ? "above 1" : "not above 1")] : []));
  }
  function restyle() {
    const difference = ["difference", "gamma"].includes(settings.mode);
    const colours = difference ? page.difference : page.wash[settings.map];
    const stops = Array.from({ length: 17 }, (_, k) => `rgb(${colours.slice(3 * Math.min(255, 16 * k), 3 * Math.min(255, 16 * k) + 3)})`);
    const highest = volume ? washHighest(volume) : 1.1 * header.prescription_gy;
    if (settings.mode === "gamma") {
      const box = (share) => el("i", { style: `width:14px;background:rgb(${colours.slice(3 * Math.round(255 * share), 3 * Math.round(255 * share) + 3)})` });
      bar.replaceChildren(`${gammaName(header.gamma)}; above 1:`, box(GAMMA_SHARES[0]), "predicted colder", box(GAMMA_SHARES[1]), `hotter; ${withUnit(header.gamma.pass_percent, "%", 1)} of ${header.gamma.n_voxels} voxels pass`);
      viewer.draw();
      return;
    }
    const gradient = el("i", { style: `background:linear-gradient(90deg,${stops.join(",")})` });
    bar.replaceChildren(...(difference
      ? [`${fixed(-settings.span, 0)} Gy (predicted colder)`, gradient, `+${settings.span} Gy (hotter)`]
      : ["0", gradient, `${fixed(highest, 1)} Gy; shown from ${fixed(WASH_FROM * header.prescription_gy, 1)} Gy`]));
    viewer.draw();
  }
  const change = (key) => (value) => { settings[key] = value; restyle(); };
  if (settings.mode === "gamma" && !header.gamma) [settings.mode] = MODES;
  const modes = [...MODES, ...(header.gamma ? ["gamma"] : [])].map((mode) => {
    const radio = el("input", { type: "radio", name: "mode", value: mode, checked: settings.mode === mode, onchange: () => { change("mode")(mode); if (volume) look(viewer.cross); } });
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
      isAlone ? null : el("fieldset", {}, el("legend", {}, "Dose"), modes),
      checkbox("dose wash", settings.wash, change("wash")), el("label", {}, "opacity", opacity),
      select("colours", Object.keys(page.wash).map((name) => [name, name]), change("map"), settings.map),
      checkbox("contours", settings.contours, change("contours")),
      select("CT window", Object.entries(WINDOWS).map(([key, [text, low, high]]) => [key, `${text} (${low} to ${high} HU)`.replaceAll("-", MINUS)]), (key) => { settings.window = key; windowed.textContent = ""; change("range")(WINDOWS[key].slice(1)); }, settings.window), windowed,
      isAlone ? null : select("Difference scale", [...new Set([1, 2, 5, 10, 20, settings.span])].sort((a, b) => a - b).map((gy) => [String(gy), `\u00b1${gy} Gy`]), (gy) => change("span")(Number(gy)), String(settings.span))),
    el("div", { class: "controls" }, button("Magnify", () => viewer.zoomBy(1.5)), button("Reduce", () => viewer.zoomBy(1 / 1.5)), button("Whole slice", () => viewer.zoomBy(0)),
      isAlone ? null : [button("Jump to the largest difference", () => viewer.toLargestDifference(where.value)), el("label", {}, "in", where)]),
    legend, bar, readout, viewer.node, profile.node,
    el("p", {}, el("small", {}, `Mouse wheel or slider: slice; click or drag: crosshair; Ctrl and wheel, or + and ${MINUS}: zoom; Shift and drag: pan; right button and drag: CT window; arrow keys and Page Up/Down on a focused slice.${isAlone ? "" : " In the difference, isodoses of the reference are solid, of the prediction dashed."} Percentages are of ${plain(header.prescription_gy)} Gy. Displayed doses are rounded to ${header.dose_step_gy.toFixed(2)} Gy; HU to 2 HU in soft tissue, to 9 HU in air, 18 HU in bone.${thinned} Numbers in tables are not taken from these pictures. Research use, not for treatment.`)));
  return { section, viewer, show: (loaded) => { volume = loaded; viewer.show(loaded); restyle(); } };
}

const noPictures = ({ problem }) => `No DVH curves and no slices: ${problem}`;
