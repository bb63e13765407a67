// Words for numbers, limits, intervals and ROIs.

// A number with its noun: "1 case", "2 cases".
const counted = (n, one, several = `${one}s`) => `${n} ${n === 1 ? one : several}`;

function limitText({ relation, unit, variation }, limits) {
  const all = [...limits].sort((a, b) => a - b);
  const range = all.length === 1 ? plain(all[0]) : `${plain(all[0])} to ${plain(all.at(-1))}`;
  const looser = all.length === 1 && isNumber(variation) ? ` (acceptable ${plain(variation)})` : "";
  return `${relation === ">=" ? "\u2265" : "\u2264"} ${range} ${unit}${looser}`;
}

const intervalText = (metric) => (metric.interval ? ` [${fixed(metric.interval[0], 2)}, ${fixed(metric.interval[1], 2)}]` : "");

// Unusual properties of an ROI, without those that the reason next to it states.
function roiFlags(roi, reason = null) {
  return [
    roi.matched_by && roi.matched_by !== "name" ? `in the data set: ${roi.source} (${roi.matched_by})` : null,
    roi.few_voxels ? `few voxels (${roi.n_voxels})` : null,
    roi.cut_by_grid ? "cut by the dose grid" : null,
    roi.outside_region_percent > 0 && !reason?.includes("outside the dose region") ? `${fixed(roi.outside_region_percent, 1)} % outside the dose region` : null,
  ].filter(Boolean);
}
