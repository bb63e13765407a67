// DVH metrics that the reader types, by the definitions of docs/conventions.md, from the doses of each ROI in ascending
// order. These are rounded down by less than a step, so volumes at a multiple of it are exact: a metric is shown with its certain digits.

async function loadDoses(position, header) {
  const bytes = new Uint8Array(await unpacked(`doses-${position}`));
  const found = {};
  let at = 0;
  for (const [roi, both] of Object.entries(header.rois)) {
    found[roi] = {};
    for (const [dose, [first, size]] of Object.entries(both)) {
      const codes = [];
      let code = first;
      for (const end = at + size; at < end; at++) {
        code += bytes[at];
        if (bytes[at] !== 255) codes.push(code);
      }
      found[roi][dose] = codes;
    }
  }
  if (at !== bytes.length) throw new Error("The doses of this case are damaged.");
  return found;
}

const METRIC_FORMS = "D95%, D0.1cc, DC700cc, V20Gy, V95%, V20Gy[cc], CV15Gy[cc], Dmean, Dmin, Dmax";
function parseMetric(text) {
  const [, word, number, unit, bracket] = /^(DC|D|CV|V)(\d+\.?\d*|\.\d+)(%|cc|Gy)(?:\[(%|cc|Gy)\])?$/.exec(text.trim()) ?? [];
  if (/^D(mean|min|max)$/.test(text.trim())) return { word: text.trim(), unit: "Gy" };
  const isDose = word === "D" || word === "DC";
  const isWrong = !word || (isDose ? unit === "Gy" || ![undefined, "Gy"].includes(bracket) : unit === "cc" || bracket === "Gy");
  if (isWrong || (isDose && unit === "%" ? Number(number) > 100 : !(Number(number) > 0))) return null;
  return { word, text: number, number: Number(number), of: unit, unit: isDose ? "Gy" : bracket ?? "%" };
}

// Number of voxels in a share or volume of an ROI of n voxels, rounded up; a share in exact decimals.
function voxelsOf({ text, number, of }, n, voxelCc) {
  if (of !== "%") return Math.ceil((number * (1 - 1e-6)) / voxelCc);
  const [whole, decimals = ""] = text.split(".");
  const over = 100n * 10n ** BigInt(decimals.length);
  return Number((BigInt(whole + decimals) * BigInt(n) + over - 1n) / over);
}

const firstNotBelow = (codes, limit) => { // (codes ascend)
  let [low, high] = [0, codes.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (codes[middle] < limit) low = middle + 1;
    else high = middle;
  }
  return low;
};

// Lowest and highest possible value of a metric, {ends: [low, high]}; or {reason} without one.
function metricEnds(metric, codes, { step_gy: step, voxel_cc: voxelCc }, prescription) {
  const n = codes.length;
  const around = (code) => ({ ends: [code * step, (code + 1) * step] });
  if (metric.word === "Dmean") return around(codes.reduce((sum, code) => sum + code, 0) / n);
  if (metric.word === "Dmin" || metric.word === "Dmax") return around(codes[metric.word === "Dmin" ? 0 : n - 1]);
  if (metric.unit === "Gy") {
    if (metric.of === "cc" && n * voxelCc < metric.number * (1 - 1e-6)) return { reason: `smaller than ${plain(metric.number)} cc` };
    const voxels = Math.min(n, Math.max(1, voxelsOf(metric, n, voxelCc)));
    return around(codes[metric.word === "DC" ? voxels - 1 : n - voxels]);
  }
  if (metric.of === "%" && !isNumber(prescription)) return { reason: "no prescription" };
  const exact = (metric.of === "%" ? (metric.number * prescription) / 100 : metric.number) / step;
  const limit = Math.abs(exact - Math.round(exact)) < 1e-6 ? Math.round(exact) : exact; // (33.1 / 0.001 is a little more)
  const below = [Math.floor(limit), Math.ceil(limit)].map((code) => firstNotBelow(codes, code));
  const amounts = metric.word === "CV" ? below : below.map((count) => n - count).reverse();
  return { ends: amounts.map((amount) => (metric.unit === "cc" ? amount * voxelCc : (100 * amount) / n)) };
}

// A value between two ends with their common digits, at most two decimals; otherwise both ends.
function certainText([low, high]) {
  for (const digits of [2, 1, 0]) if (fixed(low, digits) === fixed(high, digits)) return fixed(low, digits);
  return `${fixed(low, 2)} to ${fixed(high, 2)}`;
}

const typed = { text: "D50%" }; // kept from patient to patient
function metricSection(rois, header) {
  let doses = null;
  const result = el("div", { "aria-live": "polite" });
  const input = el("input", { type: "text", value: typed.text, size: "12", spellcheck: "false", oninput: () => { typed.text = input.value; fill(); } });
  function cells(roi, metric) {
    const found = page.doses.map((dose) => metricEnds(metric, doses[roi][dose], header, rois[roi]?.prescription_gy));
    const difference = found.length > 1 && found.every(({ ends }) => ends) ? [found[1].ends[0] - found[0].ends[1], found[1].ends[1] - found[0].ends[0]] : null;
    return { roi, found, difference };
  }
  const shown = ({ ends, reason }) => (ends ? certainText(ends) : el("span", { class: "muted" }, reason));
  function fill() {
    if (!doses) return;
    const metric = parseMetric(input.value);
    if (!metric) { result.replaceChildren(el("p", { class: "muted" }, `No metric that the page can compute. Such are ${METRIC_FORMS}.`)); return; }
    const middle = ({ ends }) => (ends ? (ends[0] + ends[1]) / 2 : null);
    result.replaceChildren(table([
      { label: "ROI", value: (r) => r.roi, show: (r) => roiLabel(rois, r.roi), header: true },
      ...page.doses.map((dose, k) => ({ label: `${dose[0].toUpperCase()}${dose.slice(1)} (${metric.unit})`, value: (r) => middle(r.found[k]), show: (r) => shown(r.found[k]), number: true })),
      ...(isAlone ? [] : [{ label: `Difference (${metric.unit})`, value: (r) => r.difference && Math.abs(r.difference[0] + r.difference[1]), show: (r) => (r.difference ? (r.difference[0] > 0 ? "+" : "") + certainText(r.difference) : "\u2013"), number: true }]),
    ], Object.keys(header.rois).map((roi) => cells(roi, metric)), { roiOf: (r) => r.roi, caption: `${input.value.trim()} of all ROIs` }));
  }
  const section = card("Any other metric",
    el("div", { class: "controls" }, el("label", {}, "Metric", input), el("small", {}, `such as ${METRIC_FORMS}`)), result,
    el("p", {}, el("small", {}, "Computed in this page from all voxels of the ROI, by the definitions of the tables, without their rules for dose that is missing. Doses are rounded down to 0.001 Gy; digits that this leaves open are not shown.")));
  section.classList.add("metrics");
  return { section, show: (loaded) => { doses = loaded; fill(); } };
}
