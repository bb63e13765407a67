// Distributions of differences by ROI and metric, and the parts of the scores as tables.

const distribution = { kind: "", metric: "" };
function distributionSection() {
  const terms = caseNames.flatMap(metricTerms);
  const order = Object.keys(page.colours);
  const groups = new Map();
  for (const term of terms) {
    const key = JSON.stringify([term.roi, term.metric]);
    const row = groups.get(key) ?? { roi: term.roi, metric: term.metric, unit: term.unit, kind: term.kind, terms: [] };
    row.terms.push(term);
    groups.set(key, row);
  }
  const rows = [...groups.values()].sort((a, b) => (b.kind === "target") - (a.kind === "target") || order.indexOf(a.roi) - order.indexOf(b.roi));
  if (rows.length > 40) distribution.kind = "target";
  const metrics = [...new Set(rows.map((row) => row.metric))];
  const kinds = [...new Set(rows.map((row) => row.kind))];
  const charts = el("div");
  function draw() {
    const shown = rows.filter((row) => (!distribution.kind || row.kind === distribution.kind) && (!distribution.metric || row.metric === distribution.metric));
    charts.replaceChildren();
    for (const unit of ["Gy", "%", "cc", ""]) {
      const ofUnit = shown.filter((row) => row.unit === unit);
      if (!ofUnit.length) continue;
      const chart = el("div", { class: "chart distribution" });
      charts.append(chart);
      drawDistribution(chart, ofUnit, unit, openCase).catch(showProblem);
    }
    if (!shown.length) charts.append(el("p", {}, "No such metric."));
  }
  const section = card("Differences by ROI and metric",
    el("p", { class: "muted" }, `A point is a case${caseNames.length > MOST_POINTS ? ", of those beyond the whiskers (1.5 times the box)" : ""}; its name and values show under the pointer, a click opens it. The box holds the middle half, its line is the median; under ${LEAST_POINTS} cases there are points alone, too few to tell a distribution. Tables with the same numbers: metrics.csv, and below.`),
    el("div", { class: "controls" },
      select("ROIs", [["", "all"], ...kinds.map((kind) => [kind, KINDS[kind] ?? kind])], (kind) => { distribution.kind = kind; draw(); }, distribution.kind),
      select("Metric", [["", "all"], ...metrics.map((metric) => [metric, metric])], (metric) => { distribution.metric = metric; draw(); }, distribution.metric)),
    charts, partsTables());
  section.classList.add("screen-only");
  return { section, draw };
}

function partsTables() {
  const rows = Object.keys(KINDS).flatMap((kind) => [
    ...Object.entries(scores.parts[kind].by_metric).map(([name, p]) => ({ group: KINDS[kind], part: name, ...p })),
    ...Object.entries(scores.parts[kind].by_roi).map(([name, p]) => ({ group: KINDS[kind], part: name, unit: "Gy and %", ...p })),
  ]);
  return el("details", {}, el("summary", {}, "Parts of the scores, as a table"), table([
    { label: "Of", value: (r) => r.group, show: (r) => r.group },
    { label: "Metric or ROI", value: (r) => r.part, show: (r) => r.part, header: true },
    { label: "Unit", show: (r) => r.unit },
    { label: "Mean |difference|", value: (r) => r.mean_absolute, show: (r) => fixed(r.mean_absolute, 3), number: true },
    { label: "Mean difference", value: (r) => r.mean_signed, show: (r) => signed(r.mean_signed, 3), number: true },
    { label: "n", value: (r) => r.n, show: (r) => String(r.n), number: true },
  ], rows, { sortBy: 3, descending: true, caption: "A difference is predicted minus reference" }), doseTables());
}

function doseTables() {
  const dose = scores.dose;
  const rows = [
    ...(dose?.bands ?? []).map((band) => [`Dose MAE, ${bandName(band)}`, withUnit(band.mae_gy, "Gy", 3), band.n]),
    ...Object.entries(dose?.isodose_dice ?? {}).map(([level, d]) => [`Dice of the ${level} % isodose`, fixed(d.mean, 3), d.n]),
    ...Object.entries(scores.dvh_distance_gy ?? {}).map(([roi, d]) => [`Distance of DVH curves, ${roi}`, withUnit(d.mean, "Gy", 3), d.n]),
    ...Object.entries(scores.indices ?? {}).map(([name, d]) => [`Mean |difference| of ${indexName(name)}`, fixed(d.mean_absolute, 3), d.n]),
  ];
  return rows.length ? table([
    { label: "Quantity", show: (r) => r[0], header: true },
    { label: "Mean over cases", show: (r) => r[1], number: true },
    { label: "n", show: (r) => String(r[2]), number: true },
  ], rows, { caption: "Further measures" }) : null;
}

addPanel({ view: "cohort", place: 40, build: distributionSection });
