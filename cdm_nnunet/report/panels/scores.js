// Tiles: each score with its parts.

function tile(label, value, unit, notes, definition) {
  return el("div", { class: "tile", title: definition },
    el("div", { class: "label" }, label),
    el("div", { class: "value" }, fixed(value, 2), isNumber(value) && unit ? el("small", {}, ` ${unit}`) : null),
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
    tile("PTV score", scores.ptv_score, scoreUnit("target"), split("target"), DEFINITIONS["PTV score, OAR score"]),
    tile("OAR score", scores.oar_score, scoreUnit("oar"), split("oar"), DEFINITIONS["PTV score, OAR score"]),
  ];
  for (const { name, definition, scores: ofChallenge } of challenges) {
    tiles.push(...ofChallenge.map(({ key, title, unit }) => tile(title, scores[name][key], unit, [], definition)));
  }
  if (scores.dose?.body_mae_gy) tiles.push(tile("Body MAE", scores.dose.body_mae_gy.mean, "Gy", ["where the reference reaches 5 Gy"]));
  for (const gamma of scores.dose?.gamma ?? []) tiles.push(tile(gammaName(gamma), gamma.mean_percent, "%", [`n = ${gamma.n}`]));
  if (scores.coverage) {
    const { nominal_percent: nominal, observed_percent: observed, n } = scores.coverage;
    tiles.push(tile(`References in their ${nominal} % interval`, observed, "%", [`n = ${n}`, `calibrated on ${counted(record.calibration.n_cases, "case")}`], DEFINITIONS["Interval"]));
  }
  if (judged) {
    tiles.push(el("div", { class: "tile" }, el("div", { class: "label" }, "Verdicts changed"),
      el("div", { class: "value" }, `${changed} of ${judged}`),
      el("div", {}, el("small", {}, "by the prediction, over all goals and cases"))));
  }
  return el("div", { class: "tiles" }, tiles);
}

addPanel({ view: "cohort", place: 10, early: true, build: scoreTiles });
