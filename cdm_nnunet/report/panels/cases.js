// Cases, starting with the worst.

function casesSection() {
  const number = (label, key, note, digits = 2) => ({ label, value: (r) => r[key], show: (r) => fixed(r[key], digits), number: true, note });
  return card("Cases, the worst first", table([
    { label: "Case", value: (r) => r.name, show: (r) => el("a", { href: caseLink(r.name) }, r.name), header: true },
    number("Dose MAE (Gy)", "mae"),
    number(`PTV score (${scoreUnit("target")})`, "ptv_score", "of this case alone"),
    number(`OAR score (${scoreUnit("oar")})`, "oar_score", "of this case alone"),
    { label: "Verdicts changed", value: (r) => r.changed, show: (r) => (r.n ? `${r.changed} of ${r.n}` : "\u2013"), number: true },
    { label: "New fails", value: (r) => r.newFails, show: (r) => String(r.newFails), number: true },
    {
      label: "Largest difference of a dose metric", value: (r) => (r.worst ? Math.abs(r.worst.difference) : null), number: true,
      show: (r) => (r.worst ? `${r.worst.roi} ${r.worst.metric} ${signed(r.worst.difference, 2)} Gy` : "\u2013"),
    },
    ...(page.case_rows.some((r) => r.ranked) ? [{ label: "Unusual goals", value: (r) => r.unusual, show: (r) => (r.ranked ? `${r.unusual} of ${r.ranked}` : "\u2013"), number: true, note: `by which the reference plan is among the lowest or highest ${page.unusual.percent} % of the ${cohortName()}` }] : []),
    { label: "Absent ROIs", value: (r) => r.missing, show: (r) => String(r.missing), number: true },
  ], page.case_rows, { sortBy: 1, descending: true, onOrder: (rows) => { caseOrder = rows.map((row) => row.name); }, caption: "Click a heading to sort, a name to open the case" }));
}

addPanel({ view: "cohort", place: 20, early: true, build: casesSection });
