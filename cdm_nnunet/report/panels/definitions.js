// Definitions of the numbers that the report has.

const DEFINITIONS = {
  "Dose MAE": "Mean of |predicted \u2212 reference| over the voxels of the dose region, in Gy; over cases, the mean of the cases.",
  "PTV score, OAR score": "Mean of |metric(predicted) \u2212 metric(reference)| over all cases, ROIs of the kind and metrics of the template, each with equal weight; D in Gy, V in percentage points. Adding the two is a convention, so the parts are given as well.",
  ...Object.fromEntries(challenges.map(({ title, definition }) => [`${title} scores`, definition])),
  "D95%": "Dx% is the lowest dose in the hottest x percent of the volume; Dxcc the same for x cc. It is the dose of a voxel, without histogram bins; only metrics marked with a challenge, such as [openkbp], are interpolated between two voxels.",
  "V20Gy, V95%": "Percentage of the ROI's voxels with at least this dose; in V95% the percentage is that of the ROI's prescription.",
  "Verdicts": "pass if the metric meets the limit, equality included; acceptable if it meets the looser limit; otherwise fail. A verdict is changed if reference and prediction get different ones. Not evaluable if it depends on missing dose outside the dose region, or if the goal is made for another fractionation or prescription; such goals are not counted elsewhere.",
  "Difference": "Always predicted minus reference.",
  "Mask error": "The surface of an ROI on the dose grid lies up to half a voxel from the drawn contour. A metric that depends on the surface changes by about half a voxel times the dose gradient. Both doses use the same masks, so this hardly changes their difference, but it can change a verdict.",
  "Few voxels": "The ROI has fewer than 100 voxels: near-maximum and near-minimum doses depend on single voxels.",
  "Gamma": "Percentage of the voxels with a reference of at least 10 % of the dose scale (the highest prescription, else the highest reference dose) for which an equal dose is found nearby, within both criteria combined. Global: the percentage is of the dose scale; local: of the voxel's reference dose.",
  "Interval": "In square brackets: the interval in which the reference value is expected, from the spread of an ensemble, calibrated on other cases. A goal is uncertain if the two ends of the interval get different verdicts.",
};

function definitionsSection() {
  const absent = { "Gamma": !scores.dose?.gamma?.length, "Interval": !scores.coverage };
  const entries = Object.entries(DEFINITIONS).filter(([name]) => !absent[name]);
  return card("Definitions", el("dl", {}, entries.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)])));
}

addPanel({ view: "cohort", place: 90, early: true, build: definitionsSection });
