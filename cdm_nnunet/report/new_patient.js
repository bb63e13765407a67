// A new patient: goals, DVH curves, slices and metrics of the predicted dose, without a reference.

const roisOf = Object.entries(record.rois);
const LABEL = record.label;

function facts() {
  const levels = Object.entries(record.prescriptions_gy).map(([roi, gy]) => `${roi} ${plain(gy)} Gy`).join(", ");
  const course = record.fractions ? `, ${record.fractions} fractions` : "";
  return el("p", {}, `Prescribed: ${levels || "nothing"}${course}. Dose: ${record.dose_file}. Template: ${record.template}.`);
}

function remarksOf(goal, roi, metric) {
  return [
    goal.reason,
    goal.is_converted ? "limit converted to the fractionation of the case" : null,
    goal.within_mask_error ? `limit within the mask error (${withUnit(metric.mask_error, metric.unit)})` : null,
    ...roiFlags(roi, goal.reason),
  ].filter(Boolean).join("; ");
}

const valueOf = (metric) => [withUnit(metric.value, metric.unit, digitsFor(metric.unit)), intervalText(metric)].join("");

function goalsTable() {
  const rows = roisOf.flatMap(([roi, entry]) => entry.goals.map((goal) => ({ roi, entry, goal, metric: entry.metrics[goal.metric] })));
  if (!rows.length) return el("p", {}, "No goal of the template has a limit for the ROIs of this patient.");
  const certain = rows.some((r) => r.goal.certainty);
  return table([
    { label: "Goal", value: (r) => `${r.roi} ${r.goal.metric}`, show: (r) => `${r.roi} ${r.goal.metric}`, header: true },
    { label: "Limit", show: (r) => limitText(r.goal, new Set([r.goal.limit])) },
    { label: "Predicted", value: (r) => r.metric.value, show: (r) => valueOf(r.metric), number: true },
    { label: "Verdict", value: (r) => r.goal.verdict, show: (r) => chip(r.goal.verdict) },
    ...(certain ? [{ label: "By interval", note: "the verdict that both ends of the interval get", value: (r) => r.goal.certainty, show: (r) => chip(r.goal.certainty) }] : []),
    { label: "Priority", value: (r) => r.goal.priority, show: (r) => String(r.goal.priority), number: true },
    { label: "Remarks", show: (r) => remarksOf(r.goal, r.entry, r.metric), wrap: true },
  ], rows, { sortBy: certain ? 5 : 4, roiOf: (r) => r.roi, caption: "Goals with a limit, for the predicted dose" });
}

function metricsTable() {
  const rows = roisOf.flatMap(([roi, entry]) => Object.entries(entry.metrics).map(([metric, m]) => ({ roi, metric, ...m })));
  return table([
    { label: "ROI", value: (r) => r.roi, show: (r) => r.roi, header: true },
    { label: "Metric", value: (r) => r.metric, show: (r) => r.metric },
    { label: "Predicted", value: (r) => r.value, show: (r) => valueOf(r), number: true },
    { label: "Mask error", value: (r) => r.mask_error, show: (r) => withUnit(r.mask_error, r.unit, digitsFor(r.unit)), number: true },
  ], rows, { caption: "All metrics of the predicted dose" });
}

function roisTable() {
  const indices = (r) => Object.entries(r.indices).map(([k, v]) => `${page.index_names[k] || k} ${fixed(v, 2)}`)
    .concat(r.index_targets.length > 1 ? [`of ${r.index_targets.join(", ")} together`] : []).join("; ");
  return table([
    { label: "ROI", value: (r) => r.roi, show: (r) => r.roi, header: true },
    { label: "In the files", value: (r) => r.name, show: (r) => r.name },
    { label: "Kind", value: (r) => r.kind, show: (r) => r.kind },
    { label: "Volume (cc)", value: (r) => r.volume_cc, show: (r) => fixed(r.volume_cc, 2), number: true },
    { label: "Prescription (Gy)", value: (r) => r.prescription_gy, show: (r) => plain(r.prescription_gy), number: true },
    { label: "Plan indices", show: (r) => indices(r) || "\u2013", wrap: true },
    { label: "Limits of the data", show: (r) => roiFlags(r).join("; ") || "\u2013", wrap: true },
  ], roisOf.map(([roi, entry]) => ({ roi, ...entry })), { caption: "ROIs of the patient" });
}

function notesList() {
  const listed = (title, items) => (items.length ? [`${title}: ${items.map(([what, reason]) => `${what} (${reason})`).join(", ")}`] : []);
  const { intervals } = record;
  const told = new Set((record.applicability?.findings ?? []).flatMap(({ text }) => [`unusual: ${text}`, `outside: ${text}`]));
  const notes = [
    ...record.notes.filter((note) => !told.has(note)),
    ...listed("Absent", Object.entries(record.missing)),
    ...listed("Not defined", Object.entries(record.undefined)),
    ...(intervals ? [`In square brackets: where the value of the planned dose is expected, for ${plain(intervals.nominal_percent)} % of patients, by ${counted(intervals.n_members, "fold")}, calibrated on ${counted(intervals.n_cases, "case")} of ${intervals.dataset}; uncertain: the two ends get different verdicts`] : []),
  ];
  return notes.length ? el("ul", {}, notes.map((note) => el("li", {}, note))) : null;
}

const STATUS_WORDS = {
  inside: "This patient is like the training patients.",
  unusual: "This patient is unusual for the model:",
  outside: "The model does not apply to this patient; the dose was predicted on request:",
  "not compared": "Whether the model applies to this patient is not known: it does not say what it was trained on.",
};

// Whether the model applies, with differences from the training patients.
function applies() {
  const { applicability } = record;
  if (!applicability) return null;
  const { status, findings, n_training: n, compared } = applicability;
  const with_ = n ? ` Compared with the ${counted(n, "patient")} of the model's data set${compared === "ranges" ? ", by their ranges alone" : ""}.` : "";
  return el("div", { class: status === "inside" ? null : "problem" }, el("p", {}, el("strong", {}, STATUS_WORDS[status]), with_),
    findings.length ? el("ul", {}, findings.map((finding) => el("li", {}, finding.text))) : null);
}

const heading = () => el("div", {}, el("p", { class: "notice" }, el("strong", {}, `${LABEL}.`), " This dose was predicted by a neural network. Nobody has planned, calculated or approved it."), applies(), facts());

function footerText() {
  const made = record.model ? [record.model.dataset, record.model.trainer].filter(Boolean).join(", ") || "a mean of several models" : "not known";
  return `cdm_nnunet ${record.software_version}, model ${made}, ${page.generated}. ${LABEL}.`;
}

const opened = { data: null, volume: null };

function printedPages() {
  const { data, volume } = opened;
  const first = el("section", { class: "print-page first" },
    el("h2", {}, `${record.case}: predicted dose`), heading(), goalsTable(), notesList(), el("p", {}, el("small", {}, footerText())));
  if (!data) return [first];
  const second = el("section", { class: "print-page" },
    el("h2", {}, `${record.case}: ${LABEL}`),
    staticDvh(data.curves, highestOf(data.curves), (roi) => roiLabel(record.rois, roi), record.rois),
    volume ? el("img", { src: pictureOf(volume, { ...settings, mode: "predicted", contours: true, wash: true }), alt: "Slices with dose" }) : el("p", {}, "The slices were not open yet when this was printed."),
    el("p", {}, el("small", {}, `Dose from ${fixed(WASH_FROM * data.volume.prescription_gy, 1)} Gy on. Isodoses: ${[...settings.isodoses].join(" %, ")} % of ${plain(data.volume.prescription_gy)} Gy. `), el("small", {}, footerText())));
  return [first, second];
}

const download = () => save(byId("record").textContent, `${record.case}.patient.json`, "application/json");

async function build() {
  const data = JSON.parse(await part("case-0"));
  const slices = viewerSection(data);
  const metrics = metricSection(record.rois, data.doses);
  const details = (title, content) => el("details", {}, el("summary", {}, title), content);
  byId("patient").replaceChildren(
    el("h1", {}, `${record.case}: predicted dose`), heading(),
    card("Goals", goalsTable(), notesList()),
    dvhSection(record.rois, data, slices.viewer).section, slices.section, metrics.section,
    el("section", { class: "card" }, details("All metrics", metricsTable()), details("ROIs: volumes, indices, limits of the data", roisTable())));
  opened.data = data;
  opened.volume = await loadVolume(0, data.volume);
  slices.show(opened.volume);
  metrics.show(await loadDoses(0, data.doses));
}

byId("dataset").textContent = record.case;
byId("subtitle").textContent = LABEL;
byId("footer").textContent = footerText();
byId("download").addEventListener("click", download);
byId("print").addEventListener("click", () => window.print());
addEventListener("beforeprint", () => byId("printed").replaceChildren(...printedPages()));
addEventListener("afterprint", () => byId("printed").replaceChildren());
build().catch(showProblem);
