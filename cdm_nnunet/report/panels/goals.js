// Goals met by the reference and by the prediction, and verdicts that change.

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

function goalsSection() {
  const rows = goalRows();
  if (!rows.length) return card("Goals", el("p", {}, "The template has no goal with a limit for the ROIs of these cases."));
  const met = (counts) => (counts.pass + counts.acceptable);
  const withCertainty = rows.some((row) => row.certainty);
  return card("Goals: reference and prediction",
    el("p", { class: "muted" }, "Met means pass or acceptable. A goal that the reference plan itself misses is not an error of the prediction."),
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
      ...(rows.some((r) => r.not_evaluable) ? [{ label: "Not evaluable", value: (r) => r.not_evaluable, show: (r) => String(r.not_evaluable), number: true, note: "dose is missing, or the goal is made for another fractionation; not counted elsewhere" }] : []),
      ...(withCertainty ? [{ label: "Uncertain", value: (r) => r.certainty?.uncertain ?? 0, show: (r) => String(r.certainty?.uncertain ?? 0), number: true }] : []),
    ], rows, { sortBy: 6, descending: true, caption: "Verdicts by goal; click a heading to sort" }));
}

addPanel({ view: "cohort", place: 30, build: goalsSection });
