// One patient: goals, DVH curves, slices, and its panels.

const caseLink = (name) => `#case=${encodeURIComponent(name)}`;
const openCase = (name) => { location.hash = caseLink(name); };

function remarks({ goal, entry: roi, metric, rank }) {
  const reference = goal.reference === "fail";
  return [
    rank && isUnusual(rank) ? "unusual plan" : null,
    goal.agree === false ? "prediction changes the verdict" : null,
    goal.reason,
    goal.is_converted ? "limit converted to the fractionation of the case" : null,
    reference && goal.predicted === "fail" ? "reference fails too" : null,
    reference && ["pass", "acceptable"].includes(goal.predicted) ? "reference fails" : null,
    goal.within_mask_error ? `limit within the mask error (${withUnit(metric.mask_error, metric.unit)})` : null,
    ...roiFlags(roi, goal.reason),
  ].filter(Boolean).join("; ");
}

// Rank of a case among the plans of its data set, by goal: unusual plans and predictions are marked.
const rankOf = (name, { roi, goal }) => record.plan_ranks?.cases[name]?.[`${roi} ${goal.metric}`] ?? null;
const isUnusual = ({ n, reference_percent: percent }) => n >= page.unusual.least && Math.min(percent, 100 - percent) <= page.unusual.percent;
function rankText(rank) {
  if (!rank) return "too few to tell";
  const { n, reference_percent: percent, predicted_percent: predicted } = rank;
  const end = { 0: ", the lowest", 100: ", the highest" }[percent] ?? "";
  return `${fixed(percent, 0)} % of ${n}${end} (${withUnit(predicted, "%", 0)})`;
}

function rankNote(ranks) {
  if (!ranks.some(Boolean)) return null;
  const { n_unread: unread } = record.plan_ranks;
  const found = ranks.filter((rank) => rank && isUnusual(rank)).length;
  const told = ranks.filter((rank) => rank?.n >= page.unusual.least).length;
  return el("p", { class: "screen-only" }, told ? `Unusual plan by ${found} of ${counted(told, "goal")}. ` : null, el("small", {},
    `Plans below: percent of the reference plans of the ${cohortName()}${unread ? ` (${unread} more can't be read)` : ""} that have a lower value than this plan, and in brackets than the prediction; equal ones count half. ` +
    "Plans of the same patient or of another prescription are left out. " +
    `Unusual: among the lowest or highest ${page.unusual.percent} % of ${page.unusual.least} plans or more.`));
}

function goalTable(name) {
  const rows = Object.entries(record.cases[name].rois).flatMap(([roi, entry]) => entry.goals.map((goal) => (
    { roi, entry, goal, metric: entry.metrics[goal.metric], rank: rankOf(name, { roi, goal }) })));
  if (!rows.length) return el("p", {}, "No goal of the template has a limit for the ROIs of this case.");
  const judged = (r, dose) => [withUnit(r.metric[dose], r.metric.unit, digitsFor(r.metric.unit)), " ", chip(r.goal[dose]), dose === "predicted" && r.metric.interval ? el("div", { class: "muted" }, intervalText(r.metric)) : null];
  const certain = rows.some((r) => r.goal.certainty);
  const changed = (r) => r.goal.agree === false;
  return el("div", {}, table([
    { label: "Goal", value: (r) => `${r.roi} ${r.goal.metric}`, show: (r) => `${r.roi} ${r.goal.metric}`, header: true },
    { label: "Limit", show: (r) => limitText(r.goal, new Set([r.goal.limit])) },
    { label: "Reference", value: (r) => r.goal.reference, show: (r) => judged(r, "reference"), number: true },
    { label: "Predicted", value: (r) => r.goal.predicted, show: (r) => judged(r, "predicted"), number: true },
    { label: "Difference", value: (r) => Math.abs(r.metric.predicted - r.metric.reference), show: (r) => signed(r.metric.predicted - r.metric.reference, digitsFor(r.metric.unit)), number: true },
    { label: "Priority", value: (r) => r.goal.priority, show: (r) => String(r.goal.priority), number: true },
    ...(certain ? [{ label: "By interval", note: "the verdict that both ends of the interval get", value: (r) => r.goal.certainty, show: (r) => chip(r.goal.certainty) }] : []),
    ...(rows.some((r) => r.rank) ? [{ label: "Plans below", value: (r) => r.rank?.reference_percent ?? null, show: (r) => el("span", { class: r.rank && isUnusual(r.rank) ? "unusual" : null }, rankText(r.rank)), class: "screen-only narrow", note: `percent of the ${cohortName()} with a lower value than this reference plan, and in brackets than the prediction` }] : []),
    { label: "Remarks", value: (r) => (changed(r) ? 0 : 1), show: remarks, wrap: true },
  ], rows, { sortBy: 5, roiOf: (r) => r.roi, rowClass: (r) => (changed(r) ? "changed" : null), caption: "Goals with a limit; shaded where the prediction changes the verdict" }), rankNote(rows.map((r) => r.rank)));
}

function missingText(name) {
  const entries = Object.entries(missingOf(name));
  const listed = (title, items) => (items.length ? [`${title}: ${items.map(([what, reason]) => `${what} (${reason})`).join(", ")}.`] : []);
  const notes = record.cases[name].notes.map((note) => `${note[0].toUpperCase()}${note.slice(1)}.`);
  return [...listed("Absent", entries), ...listed("Not defined", Object.entries(undefinedOf(name))), ...notes].join(" ");
}

function caseScores(name) {
  const { mae, ptv_score: ptv, oar_score: oar } = caseRows.get(name);
  const score = (label, value, kind) => (isNumber(value) ? `, ${label} ${withUnit(value, scoreUnit(kind))}` : "");
  return `Dose MAE ${withUnit(mae, "Gy")}${score("PTV score", ptv, "target")}${score("OAR score", oar, "oar")}`;
}

function patientHead(name) {
  const position = caseOrder.indexOf(name);
  const to = (step) => () => openCase(caseOrder[position + step]);
  return el("div", {},
    el("h1", {}, name),
    el("div", { class: "controls" },
      select("Case", caseOrder.map((n) => [n, `${n} (MAE ${fixed(caseRows.get(n).mae, 2)} Gy)`]), openCase, name),
      el("button", { type: "button", disabled: position === 0, onclick: to(-1) }, "Previous"),
      el("button", { type: "button", disabled: position === caseOrder.length - 1, onclick: to(1) }, "Next"),
      el("span", {}, caseScores(name))),
    el("p", { class: "muted screen-only" }, "In the order of the table of cases; key j: next, key k: previous."),
    el("p", { class: "muted" }, missingText(name)));
}

const loaded = { name: null, data: null, volume: null };
let redrawPatient = () => {};
let opening = 0; // an opening that is overtaken by another ends silently

async function buildPatient(name) {
  const position = caseNames.indexOf(name);
  const container = byId("patient");
  const own = (opening += 1);
  const status = el("p", { role: "status" }, "Opening\u2026");
  container.replaceChildren(...(record.cases[name] ? [patientHead(name)] : [el("h1", {}, name)]), status);
  record.cases[name] ??= JSON.parse(await part(`result-${position}`));
  if (record.plan_ranks) record.plan_ranks.cases[name] ??= JSON.parse(await part(`ranks-${position}`));
  const data = JSON.parse(await part(`case-${position}`));
  if (own !== opening) return;
  const slices = data.problem ? null : viewerSection(data);
  const metrics = data.problem ? null : metricSection(record.cases[name].rois, data.doses);
  const pictures = data.problem ? [el("p", { class: "problem" }, noPictures(data))]
    : [dvhSection(record.cases[name].rois, data, slices.viewer).section, slices.section, metrics.section];
  const built = buildPanels("patient", name);
  container.replaceChildren(patientHead(name), card("Goals", goalTable(name)), ...pictures, ...built.map(({ section }) => section));
  const volume = data.problem ? null : await loadVolume(position, data.volume);
  const doses = data.problem ? null : await loadDoses(position, data.doses);
  if (own !== opening) return;
  slices?.show(volume);
  metrics?.show(doses);
  Object.assign(loaded, { name, data, volume });
  redrawPatient = () => buildPatient(name).catch(showProblem);
}
