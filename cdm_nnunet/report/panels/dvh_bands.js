// DVH curves of the cohort: one small chart per ROI, with the median of the cases and the band between two percentiles.

const BAND_SIZE = { width: 260, height: 170, left: 30, right: 6, top: 6, bottom: 22 };

function bandChart(roi, { volumes }, step, highest, onLook) {
  const { width, height, left, right, top, bottom } = BAND_SIZE;
  const x = (dose) => left + (dose / highest) * (width - left - right);
  const y = (tenths) => top + (1 - tenths / 1000) * (height - top - bottom);
  const line = (values) => `M${values.map((v, k) => `${x(k * step).toFixed(1)} ${y(v).toFixed(1)}`).join("L")}`;
  const band = ([low, , high]) => `${line(high)}L${low.map((v, k) => `${x(k * step).toFixed(1)} ${y(v).toFixed(1)}`).reverse().join("L")}Z`;
  const colours = `--on-white:${roiColour(roi, false)};--on-dark:${roiColour(roi, true)}`;
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, style: colours, "font-size": 10, "font-family": "system-ui, sans-serif", role: "img", "aria-label": `DVH curves of ${roi}: median and band` });
  const text = (at, words, anchor) => svg("text", { ...at, class: "label", "text-anchor": anchor }, words);
  for (const percent of [0, 50, 100]) picture.append(svg("path", { d: `M${left} ${y(10 * percent)}H${width - right}`, class: "frame", opacity: 0.18 }), text({ x: left - 4, y: y(10 * percent) + 4 }, String(percent), "end"));
  const tick = highest > 50 ? 20 : highest > 20 ? 10 : 5;
  for (let dose = 0; dose <= 0.88 * highest; dose += tick) picture.append(svg("path", { d: `M${x(dose)} ${top}V${height - bottom}`, class: "frame", opacity: 0.12 }), text({ x: x(dose), y: height - bottom + 12 }, String(dose), "middle"));
  picture.append(text({ x: width - right, y: height - bottom + 12 }, "Gy", "end"));
  const curve = (d, dose, attributes) => svg("path", { d, class: dose, fill: "none", stroke: "currentColor", ...attributes });
  const { reference, predicted } = volumes;
  picture.append(curve(band(reference), "reference", { fill: "currentColor", stroke: "none", opacity: 0.25 }), curve(line(reference[1]), "reference", { "stroke-width": 2 }),
    ...[0, 2].map((k) => curve(line(predicted[k]), "predicted", { "stroke-width": 1, "stroke-dasharray": "2 2" })), curve(line(predicted[1]), "predicted", { "stroke-width": 2, "stroke-dasharray": "6 3" }));
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const at = (((event.clientX - box.left) / box.width) * width - left) / (width - left - right);
    const k = Math.min(reference[1].length - 1, Math.max(0, Math.round((at * highest) / step)));
    onLook(roi, k * step, Object.fromEntries(Object.entries(volumes).map(([dose, levels]) => [dose, levels.map((one) => one[k] / 10)])));
  });
  return picture;
}

function bandsSection() {
  if (!page.has_bands) return null;
  const place = el("div", { class: "bands" }, el("p", { role: "status" }, "Opening\u2026"));
  const readout = el("p", { class: "muted screen-only", "aria-live": "polite" }, "The pointer on a chart reads it.");
  const said = ([low, middle, high]) => `${fixed(middle, 1)} % (${fixed(low, 1)} to ${fixed(high, 1)})`;
  const onLook = (roi, dose, { reference, predicted }) => { readout.textContent = `${roi} at ${fixed(dose, 1)} Gy: reference ${said(reference)}, predicted ${said(predicted)}`; };
  const words = el("p", {});
  const show = async () => {
    const { step_gy: step, levels, rois } = JSON.parse(new TextDecoder().decode(await unpacked("bands")));
    const longest = Math.max(...Object.values(rois).map(({ volumes }) => volumes.reference[1].length));
    words.textContent = `Of the volumes (%) of all cases at each dose. Reference: shaded from the ${levels[0]}th to the ${levels[2]}th percentile, median solid. Prediction: the same between dotted lines, median dashed.`;
    place.replaceChildren(...Object.entries(rois).map(([roi, entry]) => el("figure", {},
      el("figcaption", {}, el("strong", {}, roi), el("small", {}, ` ${counted(entry.n, "case")}`)), bandChart(roi, entry, step, (longest - 1) * step, onLook))));
  };
  let shown = null;
  return { section: card("DVH curves of the cohort", words, place, readout), draw: () => { shown ??= show().catch(showProblem); } };
}

addPanel({ view: "cohort", place: 35, early: true, build: bandsSection });
