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

// Volume (percent) at a dose on a drawn curve; where the curve is vertical, its upper end: the volume with at least the dose.
function volumeAt([doses, volumes], dose) {
  if (dose <= 0) return 100;
  const right = doses.findIndex((d) => d >= dose);
  if (right < 0) return 0;
  if (doses[right] === dose || right === 0) return volumes[right];
  const share = (dose - doses[right - 1]) / (doses[right] - doses[right - 1]);
  return volumes[right - 1] + share * (volumes[right] - volumes[right - 1]);
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

async function drawDvh(target, curves, hidden, markDose, highestDose) {
  const Plotly = await plotly();
  const layout = chartLayout({
    hovermode: "closest",
    xaxis: { title: { text: "Dose (Gy)" }, range: [0, highestDose], rangemode: "tozero" },
    yaxis: { title: { text: "Volume (% of the ROI)" }, range: [0, 102] },
    shapes: [doseMark(markDose)],
  });
  await Plotly.react(target, dvhTraces(curves, hidden), layout, CHART_CONFIG);
}

const doseMark = (dose) => ({
  type: "line", x0: dose, x1: dose, yref: "paper", y0: 0, y1: 1, line: { color: colourVariable("--muted"), width: 1, dash: "dot" },
});

// Signed differences: a row for each ROI and metric, a point for each case; of many cases for those outside the whiskers.
const MOST_POINTS = 60;
async function drawDistribution(target, rows, unit, onCase) {
  const Plotly = await plotly();
  const labels = rows.map((row) => asText(`${row.roi}  ${row.metric}`));
  const digits = digitsFor(unit);
  const traces = rows.map((row, index) => ({
    type: "box", orientation: "h", y: row.terms.map(() => labels[index]), x: row.terms.map((term) => term.difference),
    name: labels[index], boxpoints: row.terms.length > MOST_POINTS ? "outliers" : "all", jitter: 0.6, pointpos: 0, marker: { color: roiColour(row.roi), size: 5, opacity: 0.75 },
    line: { color: colourVariable("--ink"), width: 1.2 }, fillcolor: "rgba(128,128,128,0.12)",
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
function staticDvh(curves, highestDose, labelOf) {
  const names = Object.keys(curves);
  const [width, left, right, top, bottom] = [600, 44, 200, 8, 40];
  const height = Math.max(330, top + 10 + 14 * (names.length + page.doses.length)); // (the legend drops nothing)
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
  const legend = [...page.doses.map((dose) => [dose, null, dose]), ...names.map((roi) => [labelOf(roi), roi, page.doses[0]])];
  legend.forEach(([text, roi, dose], index) => {
    const row = top + 10 + 14 * index;
    picture.append(line(`M${width - right + 8} ${row - 3}h40`, roi, dose), svg("text", { x: width - right + 54, y: row }, text));
  });
  return picture;
}
