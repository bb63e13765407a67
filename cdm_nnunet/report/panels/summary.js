// Summary of the evaluation in one sentence.

function coldOrHot() {
  const { dose_gy: dose } = scores.parts.target;
  if (!dose.n) return null;
  const mean = dose.mean_signed;
  return Math.abs(mean) < 0.05 ? "targets neither cold nor hot" : `targets ${fixed(Math.abs(mean), 1)} Gy ${mean < 0 ? "cold" : "hot"}`;
}

function summarySection() {
  const rows = page.case_rows;
  const [judged, changed, newFails] = ["n", "changed", "newFails"].map((key) => rows.reduce((sum, row) => sum + row[key], 0));
  const worst = worstCase();
  const parts = [
    judged ? `${changed} of ${counted(judged, "verdict")} ${changed === 1 ? "changes" : "change"}${newFails ? `, ${newFails} of them to fail` : ""}` : "no goal to judge",
    coldOrHot(),
  ].filter(Boolean);
  return el("p", { class: "summary", title: "Cold and hot: mean of predicted minus reference over the dose metrics of all targets" },
    `${parts.join("; ")}; worst `.replace(/^n/, "N"), el("a", { href: caseLink(worst) }, worst), ` (dose MAE ${withUnit(caseRows.get(worst).mae, "Gy")}).`);
}

addPanel({ view: "cohort", place: 5, early: true, build: summarySection });
