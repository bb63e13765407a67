// Collapsed tables of a patient: all metrics, ROIs, the dose apart from ROIs.

function metricTable(name) {
  const rows = metricTerms(name);
  const optional = (label, key) => (rows.some((r) => isNumber(r[key])) ? [{ label, value: (r) => r[key], show: (r) => fixed(r[key], digitsFor(r.unit)), number: true }] : []);
  return table([
    { label: "ROI", value: (r) => r.roi, show: (r) => r.roi, header: true },
    { label: "Metric", value: (r) => r.metric, show: (r) => r.metric },
    { label: "Unit", show: (r) => r.unit || "\u2013" },
    { label: "Reference", value: (r) => r.reference, show: (r) => fixed(r.reference, digitsFor(r.unit)), number: true },
    { label: "Predicted", value: (r) => r.predicted, show: (r) => [fixed(r.predicted, digitsFor(r.unit)), intervalText(r)], number: true },
    { label: "Difference", value: (r) => Math.abs(r.difference), show: (r) => signed(r.difference, digitsFor(r.unit)), number: true },
    ...optional("Mask error", "mask_error"), ...optional("Spread", "spread"),
  ], rows, { caption: "All metrics; a click on Difference sorts by its size" });
}

function roiTable(name) {
  const rows = Object.entries(record.cases[name].rois).map(([roi, entry]) => ({ roi, ...entry }));
  return table([
    { label: "ROI", value: (r) => r.roi, show: (r) => r.roi, header: true },
    { label: "Kind", value: (r) => r.kind, show: (r) => r.kind },
    { label: "Volume (cc)", value: (r) => r.volume_cc, show: (r) => fixed(r.volume_cc, 2), number: true },
    { label: "Voxels", value: (r) => r.n_voxels, show: (r) => String(r.n_voxels), number: true },
    { label: "Prescription (Gy)", value: (r) => r.prescription_gy, show: (r) => plain(r.prescription_gy), number: true },
    ...(rows.some((r) => isNumber(r.dvh_distance_gy)) ? [{ label: "DVH distance (Gy)", value: (r) => r.dvh_distance_gy, show: (r) => fixed(r.dvh_distance_gy, 2), number: true }] : []),
    { label: "Plan indices (reference, predicted)", show: (r) => Object.entries(r.indices ?? {}).map(([k, v]) => `${indexName(k)} ${fixed(v.reference, 2)}, ${fixed(v.predicted, 2)}`).concat((r.index_targets ?? []).length > 1 ? [`of ${r.index_targets.join(", ")} together`] : []).join("; ") || "\u2013", wrap: true },
    { label: "Limits of the data", show: (r) => roiFlags(r).join("; ") || "\u2013", wrap: true },
  ], rows, { caption: "ROIs of the case" });
}

function doseFacts(name) {
  const { dose } = record.cases[name];
  if (!dose) return null;
  const rows = [
    ["Dose MAE, where the reference reaches 5 Gy in the body", withUnit(dose.body_mae_gy, "Gy")],
    ...dose.bands.map((band) => [`Dose MAE, ${bandName(band)} of ${plain(dose.scale_gy)} Gy`, `${withUnit(band.mae_gy, "Gy")}, mean ${signed(band.mean_signed_gy, 2)}`]),
    ...Object.entries(dose.isodose_dice).map(([level, dice]) => [`Dice of the ${level} % isodose`, fixed(dice, 3)]),
    ...dose.gamma.map((gamma) => [gammaName(gamma), withUnit(gamma.pass_percent, "%", 1)]),
  ];
  return table([{ label: "Quantity", show: (r) => r[0], header: true }, { label: "Value", show: (r) => r[1], number: true }], rows, { caption: "The doses apart from ROIs" });
}

function detailsSection(name) {
  const details = (title, content) => el("details", {}, el("summary", {}, title), content);
  return el("section", { class: "card" },
    details("All metrics", metricTable(name)),
    details("ROIs: volumes, indices, limits of the data", roiTable(name)),
    record.cases[name].dose ? details("Dose in bands, isodoses, gamma", doseFacts(name)) : null);
}

addPanel({ view: "patient", place: 50, build: detailsSection });
