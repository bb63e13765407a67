// Charts: Plotly on the screen, and a plain SVG of DVH curves for print.

let plotlyLoaded = null;
function plotly() {
  plotlyLoaded ??= unpacked("plotly").then((buffer) => {
    document.head.append(el("script", {}, new TextDecoder().decode(buffer)));
    return window.Plotly;
  });
  return plotlyLoaded;
}

// Plotly reads some markup in texts; names from data must stay text.
const asText = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

function chartLayout(extra) {
  const line = { gridcolor: colourVariable("--line"), zerolinecolor: colourVariable("--muted"), automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
    font: { color: colourVariable("--ink"), family: "system-ui, sans-serif", size: 13 },
    margin: { l: 56, r: 12, t: 30, b: 46 },
    hoverlabel: { bgcolor: colourVariable("--card"), bordercolor: colourVariable("--line"), font: { color: colourVariable("--ink") }, align: "left" },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colourVariable("--muted"), activecolor: colourVariable("--accent") },
    ...extra,
    xaxis: { ...line, ...extra.xaxis }, yaxis: { ...line, ...extra.yaxis },
  };
}

// Volume (percent) at a dose on a drawn curve; if the curve is vertical there, its upper end: the volume with at least the dose.
function volumeAt([doses, volumes], dose) {
  if (dose <= 0) return 100;
  const right = doses.findIndex((d) => d >= dose);
  if (right < 0) return 0;
  if (doses[right] === dose || right === 0) return volumes[right];
  const share = (dose - doses[right - 1]) / (doses[right] - doses[right - 1]);
  return volumes[right - 1] + share * (volumes[right] - volumes[right - 1]);
}

// Dose at which a drawn curve falls to a volume (percent).
function doseAt([doses, volumes], volume) {
  const right = volumes.findIndex((v) => v <= volume);
  if (right <= 0) return doses[Math.max(0, right)];
  const drop = volumes[right - 1] - volumes[right];
  return doses[right] - (drop ? ((volume - volumes[right]) / drop) * (doses[right] - doses[right - 1]) : 0);
}

// Positions of names on the curves, [{roi, dose, volume}]: the first free one of each; without one, only the legend has
// the name. height: of a line of text, percent; advance: of a letter, share of the width.
const LABEL_VOLUMES = [50, 30, 70, 15, 85, 40, 60, 22, 78, 8, 92];
function curveLabels(curves, hidden, highest, height = 5, advance = 0.011) {
  const placed = [];
  for (const [roi, both] of Object.entries(curves)) {
    if (hidden.has(roi)) continue;
    const width = advance * (roi.length + 1) * highest;
    const places = LABEL_VOLUMES.map((volume) => ({ roi, volume, width, dose: doseAt(both[page.doses[0]], volume) }));
    const isFree = (a) => a.dose + a.width < highest && placed.every((b) => Math.abs(a.volume - b.volume) >= height || a.dose > b.dose + b.width || b.dose > a.dose + a.width);
    const place = places.find(isFree);
    if (place) placed.push(place);
  }
  return placed;
}

// Position of a goal's limit in a DVH, [dose, volume in percent]; for a mean dose on the axis; null for others.
function goalPoint({ metric, limit }, { volume_cc: cc, prescription_gy: prescription }) {
  if (metric === "Dmean") return [limit, 0];
  const [, kind, text, unit, inCc] = /^([DV])([\d.]+)(%|cc|Gy)(\[cc\])?$/.exec(metric) ?? [];
  const number = Number(text);
  if (kind === "D" && unit !== "Gy") return [limit, unit === "%" ? number : (100 * number) / cc];
  const dose = unit === "Gy" ? number : isNumber(prescription) ? (number / 100) * prescription : null;
  return kind === "V" && unit !== "cc" && dose !== null ? [dose, inCc ? (100 * limit) / cc : limit] : null;
}

const SYMBOLS = { "<=": "triangle-left", ">=": "triangle-right" }; // they point to the allowed side
function goalTraces(rois, hidden) {
  return Object.entries(rois).filter(([roi, { goals }]) => goals.length && !hidden.has(roi)).map(([roi, entry]) => {
    const placed = entry.goals.map((goal) => ({ goal, at: goalPoint(goal, entry) })).filter(({ at }) => at);
    const verdicts = (goal) => (goal.verdict ? `: ${goal.verdict}` : `: reference ${goal.reference}, predicted ${goal.predicted}`);
    const missed = (goal) => (goal.verdict ?? goal.predicted) === "fail";
    return {
      x: placed.map(({ at }) => at[0]), y: placed.map(({ at }) => at[1]), type: "scatter", mode: "markers", meta: { goalsOf: roi }, cliponaxis: false,
      marker: { size: 11, color: roiColour(roi), symbol: placed.map(({ goal }) => SYMBOLS[goal.relation] + (missed(goal) ? "" : "-open")), line: { width: 2, color: roiColour(roi) } },
      hovertext: placed.map(({ goal }) => asText(`${roi} ${goal.metric} ${limitText(goal, new Set([goal.limit]))}${verdicts(goal)}`)), hoverinfo: "text",
    };
  });
}

// doses: name in the data and title of each.
function dvhTraces(curves, hidden, doses = page.doses.map((dose) => [dose, dose])) {
  const literal = (text) => asText(text).replaceAll("%{", "% {");
  return Object.entries(curves).flatMap(([roi, both]) => doses.map(([dose, title]) => {
    const [x, y] = both[dose];
    return {
      x, y, type: "scatter", mode: "lines", name: asText(roi), meta: { roi, dose }, visible: !hidden.has(roi),
      line: { color: roiColour(roi), dash: roiStrokes(roi, dose).map((length) => `${length}px`).join(",") || "solid", width: page.targets.includes(roi) ? 2.6 : 1.9 },
      customdata: x.map((d) => doses.map(([name]) => volumeAt(both[name], d))),
      hovertemplate: `<b>${literal(roi)}</b> (${literal(title)})<br>` +
        `at %{x:.2f} Gy: ${doses.map(([, name], k) => `${literal(name)} %{customdata[${k}]:.1f} %`).join(", ")}<extra></extra>`,
    };
  }));
}

async function drawDvh(target, rois, curves, hidden, markDose, highestDose) {
  const Plotly = await plotly();
  const layout = chartLayout({
    hovermode: "closest",
    xaxis: { title: { text: "Dose (Gy)" }, range: [0, highestDose], rangemode: "tozero" },
    yaxis: { title: { text: "Volume (% of the ROI)" }, range: [0, 102] },
    shapes: [doseMark(markDose)],
    annotations: curveLabels(curves, hidden, highestDose, 5, 6.8 / Math.max(200, target.clientWidth - 70)).map(({ roi, dose, volume }) => ({
      x: dose, y: volume, text: asText(roi), showarrow: false, xanchor: "left", bgcolor: colourVariable("--card"), opacity: 0.85, borderpad: 0, font: { color: roiColour(roi), size: 11 },
    })),
  });
  await Plotly.react(target, [...dvhTraces(curves, hidden), ...goalTraces(rois, hidden)], layout, CHART_CONFIG);
}

const doseMark = (dose) => ({
  type: "line", x0: dose, x1: dose, yref: "paper", y0: 0, y1: 1, line: { color: colourVariable("--muted"), width: 1, dash: "dot" },
});

// Signed differences: a row for each ROI and metric, a point for each case; with many cases, only outside the whiskers.
const [LEAST_POINTS, MOST_POINTS] = [6, 60]; // minimum number of cases for a box; maximum with all points
async function drawDistribution(target, rows, unit, onCase) {
  const Plotly = await plotly();
  const labels = rows.map((row) => asText(`${row.roi}  ${row.metric}`));
  const digits = digitsFor(unit);
  const isFew = (row) => row.terms.length < LEAST_POINTS;
  const clear = { line: { width: 0 }, fillcolor: "rgba(0,0,0,0)" }; // (only points)
  const box = { line: { color: colourVariable("--ink"), width: 1.2 }, fillcolor: "rgba(128,128,128,0.12)" };
  const traces = rows.map((row, index) => ({
    type: "box", orientation: "h", y: row.terms.map(() => labels[index]), x: row.terms.map((term) => term.difference),
    name: labels[index], boxpoints: row.terms.length > MOST_POINTS ? "outliers" : "all", jitter: 0.6, pointpos: 0, marker: { color: roiColour(row.roi), size: 5, opacity: 0.75 },
    ...(isFew(row) ? clear : box),
    customdata: row.terms.map((term) => term.name),
    hovertext: row.terms.map((term) => asText(
      `${term.name}: ${row.roi} ${row.metric} ${signed(term.difference, digits)} ${unit} ` +
      `(reference ${fixed(term.reference, digits)}, predicted ${fixed(term.predicted, digits)})`)),
    hoverinfo: "text", hoveron: "points",
  }));
  const title = `Predicted ${MINUS} reference${unit ? ` (${unit})` : ""}`;
  const layout = chartLayout({
    height: 90 + 30 * rows.length, margin: { l: 10, r: 12, t: 30, b: 46 },
    xaxis: { title: { text: title }, rangemode: "tozero", zeroline: true, zerolinewidth: 2 },
    yaxis: { categoryorder: "array", categoryarray: [...labels].reverse(), type: "category" },
  });
  await Plotly.react(target, traces, layout, CHART_CONFIG);
  target.removeAllListeners?.("plotly_click");
  target.on("plotly_click", (event) => { if (event.points[0]?.customdata) onCase(event.points[0].customdata); });
}

const SVG = "http://www.w3.org/2000/svg";
function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// DVH curves without Plotly, on white, for print.
function staticDvh(curves, highestDose, labelOf, rois = {}) {
  const names = Object.keys(curves);
  const right = 60 + 5.4 * Math.max(...names.map((roi) => labelOf(roi).length), 12); // (no name is cut)
  const [width, left, top, bottom] = [400 + right, 44, 8, 40];
  const height = Math.max(330, top + 10 + 14 * (names.length + page.doses.length)); // (the legend has all entries)
  const x = (dose) => left + (dose / highestDose) * (width - left - right);
  const y = (volume) => top + (1 - volume / 100) * (height - top - bottom);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "font-size": 10, "font-family": "sans-serif", role: "img", "aria-label": "DVH curves" });
  const tick = highestDose > 50 ? 10 : highestDose > 20 ? 5 : 2;
  for (let dose = 0; dose <= highestDose; dose += tick) {
    picture.append(svg("path", { d: `M${x(dose)} ${y(0)}V${y(100)}`, stroke: "#ddd" }),
      svg("text", { x: x(dose), y: height - bottom + 14, "text-anchor": "middle" }, String(dose)));
  }
  for (let volume = 0; volume <= 100; volume += 20) {
    picture.append(svg("path", { d: `M${x(0)} ${y(volume)}H${x(highestDose)}`, stroke: "#ddd" }),
      svg("text", { x: left - 6, y: y(volume) + 3, "text-anchor": "end" }, String(volume)));
  }
  picture.append(svg("text", { x: x(highestDose / 2), y: height - 8, "text-anchor": "middle" }, "Dose (Gy)"),
    svg("text", { transform: `translate(11 ${y(50)}) rotate(-90)`, "text-anchor": "middle" }, "Volume (% of the ROI)"));
  const line = (points, roi, dose) => svg("path", { d: points, fill: "none", stroke: roi ? roiColour(roi, false) : "#333", "stroke-width": 1.5, "stroke-dasharray": (roi ? roiStrokes(roi, dose) : page.strokes[dose]).join(" ") || "none" });
  for (const roi of names) {
    for (const dose of page.doses) {
      const [doses, volumes] = curves[roi][dose];
      picture.append(line(`M${doses.map((d, i) => `${x(d).toFixed(1)} ${y(volumes[i]).toFixed(1)}`).join("L")}`, roi, dose));
    }
  }
  for (const { roi, dose, volume } of curveLabels(curves, new Set(), highestDose, 4, 0.016)) {
    picture.append(svg("text", { x: x(dose) + 3, y: y(volume) + 3, fill: roiColour(roi, false), "font-size": 8.5, stroke: "#fff", "stroke-width": 2.5, "paint-order": "stroke" }, roi));
  }
  for (const [roi, entry] of Object.entries(rois)) {
    for (const goal of curves[roi] ? entry.goals : []) {
      const at = goalPoint(goal, entry);
      if (!at || at[0] > highestDose) continue;
      const to = goal.relation === "<=" ? -6 : 6;
      const isMissed = (goal.verdict ?? goal.predicted) === "fail";
      picture.append(svg("path", { d: `M${x(at[0])} ${y(at[1]) - 4}v8l${to} -4z`, stroke: roiColour(roi, false), fill: isMissed ? roiColour(roi, false) : "#fff", class: "goal" }));
    }
  }
  const legend = [...page.doses.map((dose) => [dose, null, dose]), ...names.map((roi) => [labelOf(roi), roi, page.doses[0]])];
  legend.forEach(([text, roi, dose], index) => {
    const row = top + 10 + 14 * index;
    picture.append(line(`M${width - right + 8} ${row - 3}h40`, roi, dose), svg("text", { x: width - right + 54, y: row }, text));
  });
  return picture;
}
