// The cohort: scored cases, panels, and common parts.

const scores = record.scores;
const challenges = page.challenges.filter(({ name }) => scores[name]); // public challenges of these data
const KINDS = { target: "targets", oar: "OARs" };

// The unit of a score: that of its metrics.
const scoreUnit = (kind) => {
  const { dose_gy: dose, volume_percent: volume } = scores.parts[kind];
  return [dose.n ? "Gy" : null, volume.n ? "%" : null].filter(Boolean).join(" and ") || "no metric";
};

// The plans among which cases are ranked.
const cohortName = () => {
  const { cohort, n_plans: n } = record.plan_ranks;
  return cohort === "training" ? `${counted(n, "training case")} of the data set` : `${counted(n, "evaluated case")} (the plans of training cases are not available)`;
};

const indexName = (key) => page.index_names[key] || key;

const gammaName = (gamma) => `Gamma ${gamma.dose_percent} % / ${gamma.distance_mm} mm ${gamma.local ? "local" : "global"}, from ${plain(gamma.threshold_percent)} %${gamma.normalisation === "maximum" ? " of the maximum" : ""}`;

function leftOutList(leftOut) {
  if (!leftOut.length) return null;
  return el("div", { class: "problem" }, `Left out, ${leftOut.length} of ${counted(leftOut.length + record.n_cases, "case")}:`,
    el("ul", {}, leftOut.map(([name, reason]) => el("li", {}, `${name}: ${reason}`))));
}

function missingSection() {
  const counts = new Map();
  for (const name of caseNames) {
    for (const [roi, reason] of [...Object.entries(missingOf(name)), ...Object.entries(undefinedOf(name))]) {
      const key = JSON.stringify([roi, reason]);
      counts.set(key, [...(counts.get(key) ?? []), name]);
    }
  }
  const leftOut = Object.entries(record.left_out);
  const unscored = record.n_dataset_cases - record.n_cases - leftOut.length;
  const rows = [...counts].map(([key, names]) => { const [roi, reason] = JSON.parse(key); return { roi, reason, names }; });
  const n = rows.reduce((sum, row) => sum + row.names.length, 0);
  const text = [
    `${record.n_cases} of ${counted(record.n_dataset_cases, "case")} evaluated`,
    unscored ? `; ${unscored} have no prediction.` : ".",
    leftOut.length ? ` ${leftOut.length} could not be scored, and no mean counts them.` : "",
    n ? ` ${counted(n, "absent ROI or undefined metric", "absent ROIs or undefined metrics")}, left out of every mean:` : " No ROI of the template is missing.",
  ].join("");
  return el("div", {}, leftOutList(leftOut), el("p", {}, text), n ? el("details", { class: "screen-only" }, el("summary", {}, "Absent ROIs, metrics not defined"), table([
    { label: "ROI or metric", value: (r) => r.roi, show: (r) => r.roi, header: true },
    { label: "Reason", value: (r) => r.reason, show: (r) => r.reason },
    { label: "Cases", value: (r) => r.names.length, show: (r) => String(r.names.length), number: true },
    { label: "Names", show: (r) => r.names.join(", "), wrap: true },
  ], rows, { sortBy: 2, descending: true, caption: "ROIs of the template that are absent, and metrics that are not defined" })) : null);
}

const worstCase = () => caseNames.reduce((a, b) => (caseRows.get(b).mae > caseRows.get(a).mae ? b : a));

function metricTerms(name) {
  return Object.entries(record.cases[name].rois).flatMap(([roi, entry]) => Object.entries(entry.metrics).map(([metric, m]) => (
    { name, roi, kind: entry.kind, metric, ...m, difference: m.predicted - m.reference })));
}

const bandName = (band) => (isNumber(band.to_percent) ? `${band.from_percent} to ${band.to_percent} %` : `from ${band.from_percent} %`);

// In a report folder, panels with all metrics of all cases are built after the first paint; other panels are marked
// early.
function buildCohort() {
  const shown = [];
  const late = [];
  const section = (build, early) => {
    if (early || !files) {
      const built = asBuilt(build());
      if (built) shown.push(built);
      return built?.section;
    }
    const place = el("p", { class: "muted", role: "status" }, "Opening\u2026");
    late.push({ build, place });
    return place;
  };
  const parts = [section(missingSection, false), ...panelsOf("cohort").map(({ build, early }) => section(build, early))];
  byId("cohort").replaceChildren(
    el("h1", {}, `${record.dataset}: predicted against reference dose`), ...parts.filter(Boolean),
    el("p", { class: "print-only" }, el("small", {}, footerText())));
  if (late.length) requestAnimationFrame(() => setTimeout(() => whole().then(() => fill(late, shown)).catch(showProblem)));
  return () => shown.forEach(({ draw }) => draw?.());
}

async function fill(late, shown) {
  for (const { build, place } of late) {
    const built = asBuilt(build());
    place.replaceWith(...(built ? [built.section] : []));
    if (built) shown.push(built);
    if (!byId("cohort").hidden) built?.draw?.();
    await new Promise((resolve) => setTimeout(resolve)); // (the page stays usable in between)
  }
}
