// What the numbers mean, as far as they are there.

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

addPanel({ view: "cohort", place: 90, early: true, build: definitionsSection });
