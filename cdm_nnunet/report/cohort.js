// The cohort: what was scored, scores with their parts, goals, cases from the worst on, distributions of differences.

const scores = record.scores;
const challenges = page.challenges.filter(({ name }) => scores[name]); // public challenges whose data these are
const KINDS = { target: "targets", oar: "OARs" };

function tile(label, value, unit, notes, definition) {
  return el("div", { class: "tile", title: definition },
    el("div", { class: "label" }, label),
    el("div", { class: "value" }, withUnit(value, unit, 2)),
    notes.filter(Boolean).map((note) => el("div", {}, el("small", {}, note))));
}

function scoreTiles() {
  const split = (kind) => {
    const { dose_gy: dose, volume_percent: volume } = scores.parts[kind];
    return [
      dose.n ? `D: ${withUnit(dose.mean_absolute, "Gy")}, mean ${signed(dose.mean_signed, 2)} (n = ${dose.n})` : null,
      volume.n ? `V: ${withUnit(volume.mean_absolute, "%")}, mean ${signed(volume.mean_signed, 2)} (n = ${volume.n})` : null,
    ];
  };
  const goals = Object.values(scores.goals);
  const judged = goals.reduce((sum, goal) => sum + goal.n, 0);
  const changed = goals.reduce((sum, goal) => sum + goal.n - goal.agree, 0);
  const tiles = [
    tile("Dose MAE", scores.dose_mae_gy, "Gy", [`in ${record.dose_region ?? "the whole grid"}`], DEFINITIONS["Dose MAE"]),
    tile("PTV score", scores.ptv_score, "", split("target"), DEFINITIONS["PTV score, OAR score"]),
    tile("OAR score", scores.oar_score, "", split("oar"), DEFINITIONS["PTV score, OAR score"]),
  ];
  for (const { name, definition, scores: ofChallenge } of challenges) {
    tiles.push(...ofChallenge.map(({ key, title, unit }) => tile(title, scores[name][key], unit, [], definition)));
  }
  if (scores.dose?.body_mae_gy) tiles.push(tile("Body MAE", scores.dose.body_mae_gy.mean, "Gy", ["where the reference reaches 5 Gy"]));
  for (const gamma of scores.dose?.gamma ?? []) tiles.push(tile(gammaName(gamma), gamma.mean_percent, "%", [`n = ${gamma.n}`]));
  if (scores.coverage) {
    const { nominal_percent: nominal, observed_percent: observed, n } = scores.coverage;
    tiles.push(tile(`References in their ${nominal} % interval`, observed, "%", [`n = ${n}`, `calibrated on ${record.calibration.n_cases} cases`], DEFINITIONS["Interval"]));
  }
  if (judged) {
    tiles.push(el("div", { class: "tile" }, el("div", { class: "label" }, "Verdicts changed"),
      el("div", { class: "value" }, `${changed} of ${judged}`),
      el("div", {}, el("small", {}, "by the prediction, over all goals and cases"))));
  }
  return el("div", { class: "tiles" }, tiles);
}

const INDEX_NAMES = { paddick_conformity: "Paddick conformity", rtog_conformity: "RTOG conformity", gradient_index: "gradient index", r50: "R50%" };
const indexName = (key) => INDEX_NAMES[key] ?? key;

const gammaName = (gamma) => `Gamma ${gamma.dose_percent} % / ${gamma.distance_mm} mm ${gamma.local ? "local" : "global"}, from ${plain(gamma.threshold_percent)} %${gamma.normalisation === "maximum" ? " of the maximum" : ""}`;

function missingSection() {
  const counts = new Map();
  for (const name of caseNames) {
    for (const [roi, reason] of [...Object.entries(missingOf(name)), ...Object.entries(undefinedOf(name))]) {
      const key = JSON.stringify([roi, reason]);
      counts.set(key, [...(counts.get(key) ?? []), name]);
    }
  }
  const unscored = record.n_dataset_cases - record.n_cases;
  const rows = [...counts].map(([key, names]) => { const [roi, reason] = JSON.parse(key); return { roi, reason, names }; });
  const n = rows.reduce((sum, row) => sum + row.names.length, 0);
  const text = [
    `${record.n_cases} of ${record.n_dataset_cases} cases of ${record.dataset} were evaluated`,
    unscored ? `; ${unscored} have no prediction.` : ".",
    n ? ` ${n} ROIs are absent or metrics not defined, and left out of every mean:` : " No ROI of the template is missing.",
  ].join("");
  return el("div", {}, el("p", {}, text), n ? el("details", { class: "screen-only" }, el("summary", {}, "Absent ROIs, metrics not defined"), table([
    { label: "ROI or metric", value: (r) => r.roi, show: (r) => r.roi, header: true },
    { label: "Reason", value: (r) => r.reason, show: (r) => r.reason },
    { label: "Cases", value: (r) => r.names.length, show: (r) => String(r.names.length), number: true },
    { label: "Names", show: (r) => r.names.join(", "), wrap: true },
  ], rows, { sortBy: 2, descending: true, caption: "ROIs of the template that are absent, and metrics that are not defined" })) : null);
}

function rateBar(counts, n) {
  const kinds = ["pass", "acceptable", "fail"];
  if (!n) return "\u2013";
  const met = counts.pass + counts.acceptable;
  const text = `${met}/${n} (${Math.round((100 * met) / n)} %)`;
  const words = kinds.map((kind) => `${counts[kind]} ${kind}`).join(", ");
  return el("span", { class: "rates", title: words },
    el("span", { class: "bar", role: "img", "aria-label": words }, kinds.map((kind) => el("span", { class: kind, style: `width:${(100 * counts[kind]) / n}%` }))), text);
}

function goalRows() {
  const rows = new Map();
  for (const name of caseNames) {
    for (const [roi, { goals }] of Object.entries(record.cases[name].rois)) {
      for (const goal of goals) {
        const key = `${roi} ${goal.metric}`;
        const row = rows.get(key) ?? { key, roi, goal, limits: new Set(), failsBoth: 0, worse: 0, better: 0, ...scores.goals[key] };
        row.limits.add(goal.limit);
        rows.set(key, row);
        if (goal.agree === null) continue;
        row.worse += goal.reference !== "fail" && goal.predicted === "fail";
        row.better += goal.reference === "fail" && goal.predicted !== "fail";
        row.failsBoth += goal.reference === "fail" && goal.predicted === "fail";
      }
    }
  }
  return [...rows.values()];
}

function limitText({ relation, unit, variation }, limits) {
  const all = [...limits].sort((a, b) => a - b);
  const range = all.length === 1 ? plain(all[0]) : `${plain(all[0])} to ${plain(all.at(-1))}`;
  const looser = all.length === 1 && isNumber(variation) ? ` (acceptable ${plain(variation)})` : "";
  return `${relation === ">=" ? "\u2265" : "\u2264"} ${range} ${unit}${looser}`;
}

function goalsSection() {
  const rows = goalRows();
  if (!rows.length) return card("Goals", el("p", {}, "The template has no goal with a limit for the ROIs of these cases."));
  const met = (counts) => (counts.pass + counts.acceptable);
  const withCertainty = rows.some((row) => row.certainty);
  return card("Goals: reference and prediction",
    el("p", { class: "muted" }, "Met means pass or acceptable. A goal that the reference plan itself misses is no error of the prediction."),
    table([
      { label: "Priority", value: (r) => r.goal.priority, show: (r) => String(r.goal.priority), number: true },
      { label: "Goal", value: (r) => r.key, show: (r) => r.key, header: true },
      { label: "Limit", show: (r) => limitText(r.goal, r.limits) },
      { label: "n", value: (r) => r.n, show: (r) => String(r.n), number: true },
      { label: "Met by reference", value: (r) => met(r.reference) / r.n, show: (r) => rateBar(r.reference, r.n) },
      { label: "Met by prediction", value: (r) => met(r.predicted) / r.n, show: (r) => rateBar(r.predicted, r.n) },
      { label: "Verdict changed", value: (r) => r.n - r.agree, show: (r) => String(r.n - r.agree), number: true },
      { label: "New fail", value: (r) => r.worse, show: (r) => String(r.worse), number: true, note: "the reference does not fail, the prediction does" },
      { label: "Fail lost", value: (r) => r.better, show: (r) => String(r.better), number: true, note: "the reference fails, the prediction does not" },
      { label: "Both fail", value: (r) => r.failsBoth, show: (r) => String(r.failsBoth), number: true, note: "the reference fails too" },
      ...(rows.some((r) => r.not_evaluable) ? [{ label: "Not evaluable", value: (r) => r.not_evaluable, show: (r) => String(r.not_evaluable), number: true, note: "dose is missing, or the goal is made for another fractionation; counted nowhere else" }] : []),
      ...(withCertainty ? [{ label: "Uncertain", value: (r) => r.certainty?.uncertain ?? 0, show: (r) => String(r.certainty?.uncertain ?? 0), number: true }] : []),
    ], rows, { sortBy: 6, descending: true, caption: "Verdicts by goal; click a heading to sort" }));
}

function metricTerms(name) {
  return Object.entries(record.cases[name].rois).flatMap(([roi, entry]) => Object.entries(entry.metrics).map(([metric, m]) => (
    { name, roi, kind: entry.kind, metric, ...m, difference: m.predicted - m.reference })));
}

function caseRows() {
  return caseNames.map((name) => {
    const entry = record.cases[name];
    const goals = Object.values(entry.rois).flatMap((roi) => roi.goals);
    const inGy = metricTerms(name).filter((term) => term.unit === "Gy");
    const worst = inGy.reduce((a, b) => (a && Math.abs(a.difference) >= Math.abs(b.difference) ? a : b), null);
    return {
      name, mae: entry.dose_mae_gy, ...page.case_scores[name], worst,
      changed: goals.filter((goal) => goal.agree === false).length,
      newFails: goals.filter((goal) => goal.agree === false && goal.predicted === "fail").length,
      missing: Object.keys(missingOf(name)).length,
      n: goals.filter((goal) => goal.agree !== null).length,
    };
  });
}

function casesSection() {
  const number = (label, key, note, digits = 2) => ({ label, value: (r) => r[key], show: (r) => fixed(r[key], digits), number: true, note });
  return card("Cases, the worst first", table([
    { label: "Case", value: (r) => r.name, show: (r) => el("a", { href: caseLink(r.name) }, r.name), header: true },
    number("Dose MAE (Gy)", "mae"),
    number("PTV score", "ptv_score", "of this case alone"),
    number("OAR score", "oar_score", "of this case alone"),
    { label: "Verdicts changed", value: (r) => r.changed, show: (r) => (r.n ? `${r.changed} of ${r.n}` : "\u2013"), number: true },
    { label: "New fails", value: (r) => r.newFails, show: (r) => String(r.newFails), number: true },
    {
      label: "Largest difference of a dose metric", value: (r) => (r.worst ? Math.abs(r.worst.difference) : null), number: true,
      show: (r) => (r.worst ? `${r.worst.roi} ${r.worst.metric} ${signed(r.worst.difference, 2)} Gy` : "\u2013"),
    },
    { label: "Absent ROIs", value: (r) => r.missing, show: (r) => String(r.missing), number: true },
  ], caseRows(), { sortBy: 1, descending: true, caption: "Click a heading to sort, a name to open the case" }));
}

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
    el("p", { class: "muted" }, "A point is a case; its name and values show under the pointer, a click opens it. The box holds the middle half, its line is the median. Tables with the same numbers: metrics.csv, and below."),
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

const bandName = (band) => (isNumber(band.to_percent) ? `${band.from_percent} to ${band.to_percent} %` : `from ${band.from_percent} %`);

const DEFINITIONS = {
  "Dose MAE": "Mean of |predicted \u2212 reference| over the voxels of the dose region, in Gy; over cases, the mean of the cases.",
  "PTV score, OAR score": "Mean of |metric(predicted) \u2212 metric(reference)| over all cases, ROIs of the kind and metrics of the template, each with equal weight; D in Gy, V in percentage points. Adding the two is a convention, so the parts stand beside it.",
  ...Object.fromEntries(challenges.map(({ title, definition }) => [`${title} scores`, definition])),
  "D95%": "Dx% is the dose that the hottest x percent of the volume reach at least; Dxcc the same for x cc. Order statistics of the voxels, interpolated linearly, without histogram bins.",
  "V20Gy, V95%": "Percentage of the ROI's voxels with at least this dose; in V95% the percentage is that of the ROI's prescription.",
  "Verdicts": "pass where the metric keeps the limit, equality included; acceptable where it keeps the looser limit; else fail. A verdict is changed where reference and prediction get different ones. Not evaluable where dose that is missing outside the dose region would decide, or where the goal is made for another fractionation or prescription: counted nowhere else.",
  "Difference": "Predicted minus reference, everywhere.",
  "Mask error": "An ROI's surface lies up to half a voxel from where it was drawn: about half a voxel times the dose gradient in a metric that is decided there. The same masks serve both doses, so it hardly moves their difference, but it can move a verdict.",
  "Few voxels": "The ROI has under 100 voxels: near-maximum and near-minimum doses rest on single voxels.",
  "Gamma": "Percentage of the voxels with a reference of at least 10 % of the dose scale (the highest prescription, else the highest reference dose) that have the same dose nearby, within both criteria together. Global: the percentage is of the dose scale; local: of the voxel's reference dose.",
  "Interval": "In square brackets: where the reference value is expected, from the spread of an ensemble, calibrated on other cases. A goal is uncertain where the two ends of the interval get different verdicts.",
};

function definitionsSection() {
  const absent = { "Gamma": !scores.dose?.gamma?.length, "Interval": !scores.coverage };
  const entries = Object.entries(DEFINITIONS).filter(([name]) => !absent[name]);
  return card("Definitions", el("dl", {}, entries.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)])));
}

function buildCohort() {
  const { section, draw } = distributionSection();
  byId("cohort").replaceChildren(
    el("h1", {}, `${record.dataset}: predicted against reference dose`),
    missingSection(), scoreTiles(), casesSection(), goalsSection(), section, definitionsSection(),
    el("p", { class: "print-only" }, el("small", {}, footerText())));
  return draw;
}
